//! Which instructions of the processor the kernels use. Every kernel takes its level as an argument, so that tests can
//! run each of them; programs use [`Isa::active`]. It knows levels, not kernels.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::{CpuError, Result};

/// A level of instruction sets, each holding those before it.
///
/// ```
/// use fornax_cpu::Isa;
///
/// assert!(Isa::Portable.is_available());
/// assert!(Isa::available().contains(&Isa::best()));
/// assert_eq!("avx2".parse::<Isa>()?, Isa::Avx2);
/// # Ok::<(), fornax_cpu::CpuError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// What the compiler makes of plain Rust for any processor of the target.
    Portable,
    /// x86-64 with AVX2, FMA and F16C (x86-64-v3).
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// As `Avx512`, with GFNI and the tiles of AMX for int8 and bf16.
    Amx,
}

impl Isa {
    /// Every level, lowest first.
    pub const ALL: [Isa; 4] = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Amx];

    /// The levels that this processor and operating system run, lowest first.
    pub fn available() -> Vec<Isa> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this processor and operating system run it.
    pub fn is_available(self) -> bool {
        self <= Self::best()
    }

    /// The highest level that this processor and operating system run.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(detect)
    }

    /// The level that operations use: the best, unless [`Isa::force`] chose another.
    pub fn active() -> Isa {
        *ACTIVE.get_or_init(Self::best)
    }

    /// Makes operations use this level, for measuring and for reproducing what another machine computes. To be called
    /// before the first operation.
    ///
    /// # Errors
    /// [`CpuError::IsaUnavailable`] when the processor lacks it, [`CpuError::IsaInUse`] when operations have run already
    /// at another level.
    pub fn force(self) -> Result<()> {
        if !self.is_available() {
            return Err(CpuError::IsaUnavailable { wanted: self, best: Self::best() });
        }
        let active = *ACTIVE.get_or_init(|| self);
        if active == self { Ok(()) } else { Err(CpuError::IsaInUse { wanted: self, active }) }
    }
}

static ACTIVE: OnceLock<Isa> = OnceLock::new();

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        })
    }
}

impl FromStr for Isa {
    type Err = CpuError;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|isa| isa.to_string() == name);
        known.ok_or_else(|| CpuError::UnknownIsa { found: name.to_owned() })
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")) {
        return Isa::Portable;
    }
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni");
    if !avx512 {
        return Isa::Avx2;
    }
    if is_x86_feature_detected!("gfni") && amx::usable() { Isa::Amx } else { Isa::Avx512 }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Isa {
    Isa::Portable
}

#[cfg(target_arch = "x86_64")]
mod amx {
    use std::arch::x86_64::__cpuid_count;

    /// Whether the processor has int8 and bf16 tiles and the operating system lets this process use them.
    pub fn usable() -> bool {
        let features = __cpuid_count(7, 0).edx;
        let (bf16, tile, int8) = (features >> 22 & 1, features >> 24 & 1, features >> 25 & 1);
        bf16 & tile & int8 == 1 && permitted()
    }

    /// The tiles' 8 KiB of state must be asked for, once in a process and before its threads use them.
    #[cfg(target_os = "linux")]
    fn permitted() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XFEATURE_XTILEDATA: i64 = 18;
        let result: i64;
        // SAFETY: a system call that touches no memory of ours; the kernel clobbers rcx and r11 only.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack)
            );
        }
        result == 0
    }

    #[cfg(not(target_os = "linux"))]
    fn permitted() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse::<Isa>().unwrap(), isa);
        }
        assert!("sse9".parse::<Isa>().unwrap_err().to_string().contains("portable, avx2, avx512, amx"));
    }

    #[test]
    fn a_level_that_the_processor_lacks_is_refused() {
        match Isa::ALL.into_iter().find(|isa| !isa.is_available()) {
            Some(isa) => assert!(matches!(isa.force(), Err(CpuError::IsaUnavailable { .. }))),
            None => assert_eq!(Isa::best(), Isa::Amx),
        }
    }
}
