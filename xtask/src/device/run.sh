#!/usr/bin/env bash
# Checks and measures the device `@DEVICE@` with the program that is packed beside this script. It needs the device's
# driver, and neither Rust nor the repository. `cargo xtask device` wrote it for Fornax @COMMIT@.
#
#   bash run.sh                      # at most @TOTAL@ seconds; results in ./device-results
#   OUT=results bash run.sh          # results in another folder
#
# Results, each written as far as the run came: summary.md (begin here), machine.txt, tests.tsv (an outcome for each
# test), tests.txt (what the tests said), figures.md, figures.json, figures.txt (what the benches said).
#
# Exit code: 0 all tests and benches passed, 1 something failed, 2 nothing failed but time ran out before all tests had
# run, 3 the program or the device does not start.
#
# FORNAX_DEVICE=@DEVICE@:1 takes another device of the machine, FORNAX_DEVICE_SECONDS=1800 more time.
set -u

device=${FORNAX_DEVICE:-@DEVICE@}
total=${FORNAX_DEVICE_SECONDS:-@TOTAL@}
until_tests=$((total * @TESTS@ / @TOTAL@)) # tests are begun until then, in seconds from the start
reserve=10                                 # for the end, of the total
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${OUT:-device-results}
mkdir -p "$out" || exit 3
out=$(cd "$out" && pwd)
work=$(mktemp -d) || exit 3
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

say() { printf '[%3d s] %s\n' "$SECONDS" "$*" >&2; }

# Runs a command for at most so many seconds. Perl stands in where there is no `timeout`, as on a Mac.
limited() {
  local seconds=$1
  shift
  if [ "$seconds" -lt 1 ]; then
    return 124
  elif command -v timeout >/dev/null; then
    timeout -k 5 "$seconds" "$@"
  else
    perl -e 'alarm shift; exec @ARGV' "$seconds" "$@"
  fi
}

# Ends the run before it began, and says what to do.
give_up() {
  say "$1"
  printf '# Device `%s`\n\nNothing was run: %s\n' "$device" "$1" >"$out/summary.md"
  exit 3
}

# --- The machine -----------------------------------------------------------------------------------------------------

describe() {
  date -u '+%Y-%m-%d %H:%M UTC'
  echo "Fornax @COMMIT@, built with @PROFILE@ for @DEVICE@"
  uname -srm
  grep -m1 'model name' /proc/cpuinfo 2>/dev/null || sysctl -n machdep.cpu.brand_string 2>/dev/null
  echo "processors: $(getconf _NPROCESSORS_ONLN 2>/dev/null)"
  grep MemTotal /proc/meminfo 2>/dev/null
  (ldd --version 2>&1 || true) | head -n 1
  local command
  for command in "nvidia-smi" "nvidia-smi -q -d MEMORY,CLOCK,POWER" "rocminfo" "vulkaninfo --summary" \
    "system_profiler SPDisplaysDataType"; do
    if command -v "${command%% *}" >/dev/null; then
      printf '\n$ %s\n' "$command"
      # shellcheck disable=SC2086 # the command's words
      limited 20 $command
    fi
  done
}

rm -f "$out"/{summary.md,tests.tsv,tests.txt,figures.md,figures.json,figures.txt}
say "results go to $out"
describe >"$out/machine.txt" 2>&1

# --- The program -----------------------------------------------------------------------------------------------------

archive=$here/@ARCHIVE@
[ -e "$archive" ] || give_up "$archive is not there; it belongs beside run.sh."
if ! tar -xJf "$archive" -C "$work" 2>"$work/log" && ! python3 -m tarfile -e "$archive" "$work" >>"$work/log" 2>&1; then
  give_up "$archive cannot be unpacked: $(tr '\n' ' ' <"$work/log") Install tar and xz, or Python 3; $(df -h "$work" | tail -n 1) is where it goes."
fi
chmod +x "$work/program"

# The driver's libraries lie where the loader does not look in some containers.
if [ "@DEVICE@" = cuda ] && ! (ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null) | grep -q 'libcuda\.so\.1'; then
  for folder in /usr/local/nvidia/lib64 /usr/local/nvidia/lib /usr/lib/wsl/lib /usr/lib64-nvidia /usr/local/cuda/compat; do
    if [ -e "$folder/libcuda.so.1" ]; then
      export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
      break
    fi
  done
fi

export FORNAX_TEST_DEVICE=$device FORNAX_BENCH_DEVICE=$device
export FORNAX_TEST_FIXTURES=$work/fixtures FORNAX_BENCH_MODELS=$work/models FORNAX_FIGURES=$out
export RUST_BACKTRACE=0 # the program has no symbols
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-$work}
cd "$work" || exit 3

if ! limited 60 ./program --list --format terse >"$work/list" 2>"$work/log"; then
  give_up "the program does not start: $(head -n 3 "$work/log" | tr '\n' ' ') Where a library or its version is missing, install it, or build the pack on a system that is no newer than this one."
fi
if ! limited 120 ./program figures::the_device_answers --exact --nocapture >"$work/log" 2>&1; then
  cat "$work/log" >"$out/figures.txt"
  reason=$(awk '/panicked at/ { getline; print; exit }' "$work/log")
  give_up "the device does not answer: ${reason:-no reason given}. Look for its driver in machine.txt, and at figures.txt for all that was said; FORNAX_DEVICE names another device."
fi
say "$device answers"

# --- The tests -------------------------------------------------------------------------------------------------------

# Operations before models, and the files of tests one after the other, each a process: what breaks the device in one
# process does not reach the next.
sed -n 's/: test$//p' "$work/list" | grep -E '^(operations|models)::' >"$work/names"
groups=$(sed -E 's/^([^:]+::[^:]+::).*/\1/' "$work/names" | sort -u | sort -s -t: -k1,1r)
count=$(printf '%s\n' "$groups" | wc -l)
tests=$(wc -l <"$work/names")
say "$((tests)) tests, until second $until_tests"

# The outcomes that the test program printed: NAME, then ok or failed.
outcomes() { awk -v OFS='\t' '/^test .* \.\.\. (ok|FAILED)$/ { print $2, ($NF == "ok") ? "ok" : "failed" }' "$1"; }

# What the run of these tests may cost: kernels are not tuned, as nothing is timed.
check() {
  local seconds=$1
  shift
  CUBECL_AUTOTUNE_LEVEL=${CUBECL_AUTOTUNE_LEVEL:-0} limited "$seconds" ./program "$@"
}

touch "$work/outcomes" "$work/alone" "$work/broken"
for group in $groups; do
  # At most twice an equal share of the time: a slow group must leave time to the groups after it.
  left=$((until_tests - SECONDS))
  seconds=$((left > 0 ? 2 * left / count : 0))
  seconds=$((seconds < 10 ? 10 : seconds))
  seconds=$((seconds < left ? seconds : left))
  count=$((count > 1 ? count - 1 : 1))
  [ "$seconds" -lt 1 ] && break
  check "$seconds" "$group" >"$work/log" 2>&1
  code=$?
  { echo "=== $group, exit code $code"; cat "$work/log"; } >>"$out/tests.txt"
  outcomes "$work/log" >"$work/group"
  cat "$work/group" >>"$work/outcomes"
  case $code in
    0 | 101) why="" ;;
    124 | 137 | 142) why=", stopped after $seconds s" ;;
    *)
      why=", the process broke (exit code $code)"
      echo "${group%::} (exit code $code)" >>"$work/broken"
      grep "^$group" "$work/names" | grep -vxF -f <(cut -f1 "$work/group") | awk '{ print $1 "\tbroken" }' >>"$work/outcomes"
      ;;
  esac
  say "$group $(grep -c 'ok$' "$work/group") passed, $(grep -c 'failed$' "$work/group") failed of $(grep -c "^$group" "$work/names")$why"
done

# Those that did not pass again, alone: what fails only after others says so, and what a broken process took with it
# has its own say.
for name in $(grep -E '(failed|broken)$' "$work/outcomes" | cut -f1); do
  left=$((until_tests - SECONDS))
  [ "$left" -lt 1 ] && break
  check $((left < 60 ? left : 60)) --exact "$name" --nocapture >"$work/log" 2>&1
  code=$?
  { echo "=== $name alone, exit code $code"; cat "$work/log"; } >>"$out/tests.txt"
  printf '%s\t%s\n' "$name" "$code" >>"$work/alone"
  say "$name alone: exit code $code"
done

# One line for each test, whatever became of it.
awk -F '\t' -v OFS='\t' -v alone="$work/alone" -v first="$work/outcomes" '
  FILENAME == first { outcome[$1] = $2; next }
  FILENAME == alone { code[$1] = $2; next }
  {
    o = ($1 in outcome) ? outcome[$1] : "not run"
    if ($1 in code) {
      if (o == "broken") o = (code[$1] == 0) ? "ok" : "failed"
      else if (code[$1] == 0) o = "failed, but passed alone"
    } else if (o == "broken") o = "failed"
    print $1, o
  }' "$work/outcomes" "$work/alone" "$work/names" >"$out/tests.tsv"
passed=$(grep -c '	ok$' "$out/tests.tsv")
failed=$(grep -c '	failed' "$out/tests.tsv")
not_run=$(grep -c '	not run$' "$out/tests.tsv")
say "tests: $passed passed, $failed failed, $not_run not run"

# --- The benches -----------------------------------------------------------------------------------------------------

benches=0
for attempt in 1 2 3 4 5 6 7 8; do
  left=$((total - reserve - SECONDS))
  [ "$left" -lt 5 ] && break
  export FORNAX_FIGURES_SECONDS=$((left > 30 ? left - 20 : left / 3))
  say "benches, $left s"
  { limited "$left" ./program figures::measure --exact --nocapture --test-threads 1 2>&1; echo "exit code $?"; } |
    tee -a "$out/figures.txt" | grep -E '^(\||[0-9]+ (cases|seconds)|exit code)' >&2
  code=$(sed -n 's/^exit code //p' "$out/figures.txt" | tail -n 1)
  case $code in
    0) break ;;
    101) benches=1; break ;;
    124 | 137 | 142) break ;;
    # The program broke or hung: it goes on after the case that did it.
    *) benches=1 ;;
  esac
done

# --- The summary -----------------------------------------------------------------------------------------------------

{
  printf '# Device `%s`\n\n' "$device"
  if command -v nvidia-smi >/dev/null; then
    limited 20 nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    echo
  fi
  echo "$(grep -m1 'model name' /proc/cpuinfo 2>/dev/null | sed 's/.*: //'), $(getconf _NPROCESSORS_ONLN) processors. Fornax @COMMIT@, built with @PROFILE@."
  printf '\n## Tests\n\n%s passed, %s failed, %s not run for want of time.\n\n' "$passed" "$failed" "$not_run"
  echo '| tests of | passed | failed | not run |'
  echo '|---|---:|---:|---:|'
  awk -F '\t' '{ split($1, part, "::"); g = part[1] "::" part[2]; if (!(g in all)) order[++n] = g; all[g]++ }
    $2 == "ok" { ok[g]++ } $2 ~ /^failed/ { bad[g]++ } $2 == "not run" { none[g]++ }
    END { for (i = 1; i <= n; i++) { g = order[i]; printf "| %s | %d | %d | %d |\n", g, ok[g], bad[g], none[g] } }' "$out/tests.tsv"
  if [ "$failed" -gt 0 ]; then
    printf '\nFailed (tests.txt says how):\n\n'
    awk -F '\t' '$2 ~ /^failed/ { print "- `" $1 "` " $2 }' "$out/tests.tsv"
  fi
  if [ -s "$work/broken" ]; then
    printf '\nThe process that ran these tests broke, and the tests that it had not ended ran again alone:\n\n'
    sed 's/^/- /' "$work/broken"
  fi
  printf '\n## Figures\n\n'
  cat "$out/figures.md" 2>/dev/null || echo 'None: time ran out before the first.'
} >"$out/summary.md"
cat "$out/summary.md"
say "the results are in $out"
if [ "$failed" -gt 0 ] || [ -s "$work/broken" ] || [ "$benches" -ne 0 ]; then exit 1; fi
if [ "$not_run" -gt 0 ]; then exit 2; fi
exit 0
