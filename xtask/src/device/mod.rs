//! `cargo xtask device`: packs what a machine with a GPU needs to check and measure Fornax, so that a short loan of such
//! a machine is enough. Building takes many minutes and happens here; the other machine only runs.
//!
//! A pack is a folder of two files: `device.tar.xz`, with the program and the fixtures of the model families, and
//! `run.sh`, which runs them. What is checked and measured is in `benches/tests/device/`; how the run is divided is in
//! `run.sh`. To compare devices of one machine with each other is `cargo xtask bench`'s matter.

mod build;
mod pack;
mod script;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};

use crate::tidy;
use crate::workspace::Workspace;

/// What follows the options in the help.
const EXAMPLES: &str = "\
What it does:
  Builds one program with the tests of the operations, the tests of the model families against
  transformers, and the benches; strips it, and packs it with the tests' fixtures. The pack is a
  folder of two files, device.tar.xz and run.sh. The other machine needs the device's driver and
  these files: no Rust, no repository, no CUDA toolkit.

On the other machine:
  bash run.sh
    checks and measures for at most 8 minutes, and writes into ./device-results or the folder that
    OUT names. Begin with summary.md there. What was done when time ran out is kept. The exit code
    is 1 when something failed.
  FORNAX_DEVICE=cuda:1 FORNAX_DEVICE_SECONDS=1800 bash run.sh
    takes the machine's second GPU, and half an hour.

Examples:
  Pack for NVIDIA's GPUs, and run it somewhere:
    cargo xtask device --features cuda
    scp -r target/device gpu: && ssh gpu bash device/run.sh
  Try the pack without a GPU, on Mesa's software Vulkan (Debian: mesa-vulkan-drivers), built as
  the tests are:
    cargo xtask device --features wgpu --profile dev
    CUBECL_WGPU_DEFAULT_DEVICE=Cpu CUBECL_AUTOTUNE_LEVEL=0 bash target/device/run.sh

The program runs on processors of the same architecture, under systems whose C library is at
least as new as this one's.
";

/// Pack tests and benches for a machine with a GPU, with a script that runs them there in 8 minutes
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// The backend to build for, which is a cargo feature and the name of its devices
    #[arg(long, value_name = "BACKEND", value_enum)]
    features: Backend,
    /// The folder for the pack; target/device without
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// The cargo profile to build with; figures of another than `release` are not what users get
    #[arg(long, value_name = "PROFILE", default_value = "release")]
    profile: String,
    /// An error when the pack and the repository's files together are larger than so many MiB
    #[arg(long, value_name = "MIB", default_value_t = 60)]
    at_most: u64,
}

/// A backend with devices other than the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// NVIDIA's GPUs
    Cuda,
    /// Any GPU, with kernels in WGSL
    Wgpu,
    /// Any GPU with Vulkan, with kernels in SPIR-V
    Vulkan,
    /// AMD's GPUs
    Rocm,
    /// Apple's GPUs
    Metal,
}

impl Backend {
    /// Its cargo feature, which is the name of its first device too.
    fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
            Self::Vulkan => "vulkan",
            Self::Rocm => "rocm",
            Self::Metal => "metal",
        }
    }
}

/// Builds and packs.
///
/// # Errors
/// When the program does not build, `tar` or `xz` fails, or the pack is too large.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let out = options.out.clone().unwrap_or_else(|| workspace.target.join("device"));
    std::fs::create_dir_all(&out).with_context(|| format!("no pack can be written to {}", out.display()))?;
    let program = build::program(workspace, options.features.name(), &options.profile)?;
    let script = script::Script {
        device: options.features.name(),
        profile: &options.profile,
        commit: &crate::bench::commit(&workspace.root),
    };
    let archive = out.join(script::ARCHIVE);
    eprintln!("packing {}", archive.display());
    pack::write(&program, &workspace.root.join(pack::FIXTURES), &archive)?;
    let run = out.join("run.sh");
    std::fs::write(&run, script.text()).with_context(|| format!("{} cannot be written", run.display()))?;

    let sizes = Sizes {
        program: size(&program)?,
        pack: size(&archive)? + size(&run)?,
        repository: tidy::listed(workspace)?
            .iter()
            .filter_map(|path| Some(workspace.root.join(path).symlink_metadata().ok()?.len()))
            .sum(),
    };
    println!("{}", sizes.told());
    println!("the pack is in {}; on the machine with the device: bash run.sh", out.display());
    sizes.check(options.at_most)
}

/// Sizes in bytes.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// The program before it was packed.
    program: u64,
    /// All files of the pack.
    pack: u64,
    /// All files of the repository, its history not counted.
    repository: u64,
}

impl Sizes {
    fn told(self) -> String {
        format!(
            "the program has {}, packed {}; the repository's files have {}, together {}",
            mib(self.program),
            mib(self.pack),
            mib(self.repository),
            mib(self.pack + self.repository)
        )
    }

    fn check(self, at_most: u64) -> Result<()> {
        ensure!(
            self.pack + self.repository <= at_most << 20,
            "the pack and the repository's files have {} together, expected at most {at_most} MiB: build with \
             `--profile release`, or raise `--at-most`",
            mib(self.pack + self.repository)
        );
        Ok(())
    }
}

fn size(path: &std::path::Path) -> Result<u64> {
    Ok(path.metadata().with_context(|| format!("{} cannot be read", path.display()))?.len())
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn parse(arguments: &str) -> Result<Options, String> {
        let arguments = std::iter::once("device").chain(arguments.split_whitespace());
        Command::try_parse_from(arguments).map(|command| command.options).map_err(|error| error.to_string())
    }

    #[test]
    fn a_backend_is_a_feature_and_a_device() {
        for name in ["cuda", "wgpu", "vulkan", "rocm", "metal"] {
            let options = parse(&format!("--features {name}")).expect(name);
            assert_eq!(options.features.name(), name);
            assert_eq!((options.profile.as_str(), options.at_most, options.out), ("release", 60, None));
        }
        assert!(parse("").expect_err("no backend").contains("--features <BACKEND>"));
        assert!(parse("--features cpu").expect_err("no GPU").contains("cuda, wgpu, vulkan, rocm, metal"));
    }

    #[test]
    fn features_are_those_of_the_benches() {
        let workspace = Workspace::read().expect("cargo metadata reads this workspace");
        let features = &workspace.package(build::PACKAGE).expect("the benches").features;
        for backend in Backend::value_variants() {
            assert!(features.contains_key(backend.name()), "{}", backend.name());
        }
    }

    #[test]
    fn a_pack_that_is_too_large_is_an_error_with_its_size() {
        let sizes = Sizes { program: 140 << 20, pack: 53 << 20, repository: 7 << 20 };
        assert!(sizes.check(60).is_ok());
        let error = Sizes { pack: sizes.pack + 1, ..sizes }.check(60).expect_err("a byte too much").to_string();
        assert!(error.contains("60.0 MiB together, expected at most 60 MiB"), "{error}");
        assert!(sizes.told().contains("140.0 MiB, packed 53.0 MiB"), "{}", sizes.told());
    }
}
