"""Measures `fornax generate --prompts`: prompts of mixed lengths together, against the same one after the other.

    prompts.py make FILE.jsonl [--count 256] [--least 8] [--most 256] [--new 64]
    prompts.py run FORNAX MODEL [--rounds 3] [--threads 2] [the options of make] [-- ARGUMENTS of fornax generate]

FORNAX is the command's path. The prompts are token ids that every vocabulary of 512 tokens has, drawn with a fixed seed, so no
tokenizer is needed and no prompt begins like another; none of them ends early. `run` computes the file in turn with the usual
number of sequences side by side and with --max-running 1, A B A B, each in a process of its own, without the time to load the
model. It checks that both give the same tokens, and prints medians and the ratio.
"""

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile


def make(path, options):
    random.seed(0)
    with open(path, "w", encoding="utf-8") as file:
        for index in range(options.count):
            length = random.randint(options.least, options.most)
            tokens = [random.randint(3, 511) for _ in range(length)]
            line = {"id": index, "token_ids": tokens, "max_new_tokens": options.new, "ignore_eos": True}
            file.write(json.dumps(line) + "\n")


def generate(options, path, *arguments):
    """Seconds, tokens a second, and the answers."""
    command = [options.fornax, "generate", options.model, "--prompts", path, "--threads", str(options.threads)]
    done = subprocess.run([*command, "--verbose", *options.rest, *arguments], capture_output=True, text=True)
    found = re.search(r"(\d+) inputs, (\d+) tokens in ([\d.]+) s", done.stderr)
    if done.returncode != 0 or not found:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return float(found[3]), int(found[2]) / float(found[3]), done.stdout


def run(options):
    contestants = {"together": (), "one after the other": ("--max-running", "1")}
    seconds = {name: [] for name in contestants}
    speeds = {name: [] for name in contestants}
    answers = set()
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        make(file.name, options)
        for _ in range(options.rounds):
            for name, arguments in contestants.items():
                taken, speed, answer = generate(options, file.name, *arguments)
                seconds[name].append(taken)
                speeds[name].append(speed)
                answers.add(answer)
                print(f"{name:20} {taken:8.2f} s {speed:9.1f} tokens/s", flush=True)
    if len(answers) > 1:
        sys.exit("the tokens differ between the runs")
    ratios = [alone / together for together, alone in zip(*seconds.values())]
    for name in contestants:
        print(f"median {name:20} {statistics.median(seconds[name]):8.2f} s {statistics.median(speeds[name]):9.1f} tokens/s")
    print(f"together {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f}), the same tokens")


def main():
    arguments, rest = sys.argv[1:], []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, rest = arguments[:at], arguments[at + 1 :]
    sizes = argparse.ArgumentParser(add_help=False)
    sizes.add_argument("--count", type=int, default=256, help="prompts")
    sizes.add_argument("--least", type=int, default=8, help="tokens of the shortest prompt")
    sizes.add_argument("--most", type=int, default=256, help="tokens of the longest prompt")
    sizes.add_argument("--new", type=int, default=64, help="new tokens of each")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("make", parents=[sizes], help="write the file").add_argument("file")
    running = commands.add_parser("run", parents=[sizes], help="measure")
    running.add_argument("fornax")
    running.add_argument("model")
    running.add_argument("--rounds", type=int, default=3)
    running.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    options.rest = rest
    if options.command == "make":
        make(options.file, options)
    else:
        run(options)


if __name__ == "__main__":
    main()
