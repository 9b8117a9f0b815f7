//! Devices by name (`cpu`, `wgpu:0`, `cuda:1`, …), checked when they are chosen rather than at first use.
//! Which backends are compiled in is decided by cargo features; nothing here changes settings of a device.

use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;

use burn::tensor::Device as BurnDevice;
use burn::tensor::Tensor;

use crate::FloatDtype;

/// A family of devices, behind the cargo feature of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The processor, through burn-flex and this crate's kernels.
    Cpu,
    /// Any graphics API through wgpu, with kernels in WGSL.
    Wgpu,
    /// Vulkan, with kernels in SPIR-V.
    Vulkan,
    /// Apple's Metal.
    Metal,
    /// NVIDIA's CUDA.
    Cuda,
    /// AMD's ROCm.
    Rocm,
}

impl Backend {
    /// Every backend there is, compiled in or not.
    pub const ALL: [Self; 6] = [Self::Cpu, Self::Wgpu, Self::Vulkan, Self::Metal, Self::Cuda, Self::Rocm];

    /// Its name, which is the name of its cargo feature too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
        }
    }

    /// Whether this build contains it.
    pub fn is_compiled_in(self) -> bool {
        match self {
            Self::Cpu => cfg!(feature = "cpu"),
            Self::Wgpu => cfg!(feature = "wgpu"),
            Self::Vulkan => cfg!(feature = "vulkan"),
            Self::Metal => cfg!(feature = "metal"),
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Rocm => cfg!(feature = "rocm"),
        }
    }
}

/// Why a device could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The name does not parse.
    #[error(
        "device {found:?} is unknown; expected cpu, wgpu, vulkan, metal, cuda or rocm, with an index where there are several (cuda:1), or best"
    )]
    Unknown {
        /// The name as it was given.
        found: String,
    },
    /// The backend exists, but this build does not contain it.
    #[error("device {device:?} is not in this build; enable the cargo feature `{feature}` (compiled in: {compiled})")]
    NotCompiledIn {
        /// The device asked for.
        device: String,
        /// The feature that brings it.
        feature: &'static str,
        /// The backends that this build contains.
        compiled: String,
    },
    /// The backend is compiled in, but the machine does not have such a device.
    #[error("device {device:?} is not on this machine: {reason}")]
    NotPresent {
        /// The device asked for.
        device: String,
        /// What was found instead.
        reason: String,
    },
}

/// Where tensors live and operations run.
///
/// It derefs to burn's device, so that it can be given to whatever of burn wants one.
///
/// ```
/// use fornax_backend::Device;
///
/// # fn main() -> Result<(), fornax_backend::DeviceError> {
/// let device: Device = "cpu".parse()?;
/// assert_eq!(device.to_string(), "cpu");
/// assert!("cuda:0:1".parse::<Device>().is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    backend: Backend,
    index: Option<usize>,
    inner: BurnDevice,
}

impl Device {
    /// The processor.
    #[cfg(feature = "cpu")]
    pub fn cpu() -> Self {
        Self { backend: Backend::Cpu, index: None, inner: BurnDevice::flex() }
    }

    /// The fastest device there is: the first GPU of the backends compiled in that answers, otherwise the processor.
    ///
    /// # Errors
    /// [`DeviceError::NotPresent`] in a build without the `cpu` feature on a machine without a GPU.
    pub fn best() -> Result<Self, DeviceError> {
        let order = [Backend::Cuda, Backend::Rocm, Backend::Metal, Backend::Vulkan, Backend::Wgpu, Backend::Cpu];
        let mut reason = String::from("no backend is compiled in");
        for backend in order.into_iter().filter(|backend| backend.is_compiled_in()) {
            match Self::open(backend, None) {
                Ok(device) => return Ok(device),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(DeviceError::NotPresent { device: "best".into(), reason })
    }

    /// A device of each backend that this build can use on this machine, the processor first.
    pub fn available() -> Vec<Self> {
        Backend::ALL.into_iter().filter_map(|backend| Self::open(backend, None).ok()).collect()
    }

    /// Opens a device and computes a sum on it, so that a missing device is an error here and not later.
    ///
    /// # Errors
    /// [`DeviceError`], as its variants say.
    pub fn open(backend: Backend, index: Option<usize>) -> Result<Self, DeviceError> {
        let name = display_name(backend, index);
        if !backend.is_compiled_in() {
            let compiled: Vec<_> =
                Backend::ALL.into_iter().filter(|other| other.is_compiled_in()).map(Backend::name).collect();
            return Err(DeviceError::NotCompiledIn {
                device: name,
                feature: backend.name(),
                compiled: compiled.join(", "),
            });
        }
        let absent = |reason: String| DeviceError::NotPresent { device: name.clone(), reason };
        if backend == Backend::Cpu
            && let Some(index) = index.filter(|&index| index > 0)
        {
            return Err(absent(format!("there is one cpu, its index is 0, found {index}")));
        }
        // The drivers' crates answer a missing driver with a panic; here it is an error like any other.
        let opened = catch_unwind(AssertUnwindSafe(|| -> Result<BurnDevice, String> {
            let inner = open_burn_device(backend, index)?;
            answers(&inner)?;
            Ok(inner)
        }));
        match opened {
            // There is one processor, so its index says nothing.
            Ok(Ok(inner)) => Ok(Self { backend, index: index.filter(|_| backend != Backend::Cpu), inner }),
            Ok(Err(reason)) => Err(absent(reason)),
            Err(panic) => Err(absent(panic_text(panic.as_ref()))),
        }
    }

    /// The family that it belongs to.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Whether tensors made on it lie in main memory, without gradients recorded.
    pub fn is_plain_cpu(&self) -> bool {
        #[cfg(feature = "cpu")]
        return matches!(self.inner.as_dispatch(), burn::backend::DispatchDevice::Flex(_));
        #[cfg(not(feature = "cpu"))]
        false
    }

    /// Whether it is something other than the processor.
    pub fn is_gpu(&self) -> bool {
        self.backend != Backend::Cpu
    }

    /// Whether it can hold tensors of this type and compute with them.
    pub fn supports(&self, dtype: FloatDtype) -> bool {
        self.inner.supports_dtype(burn::tensor::DType::from(dtype))
    }

    /// The same device with gradients recorded, for training.
    #[must_use]
    pub fn autodiff(&self) -> Self {
        let inner = if self.inner.is_autodiff() { self.inner.clone() } else { self.inner.clone().autodiff() };
        Self { inner, ..*self }
    }

    /// burn's own device.
    pub fn as_burn(&self) -> &BurnDevice {
        &self.inner
    }
}

impl Deref for Device {
    type Target = BurnDevice;

    fn deref(&self) -> &BurnDevice {
        &self.inner
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&display_name(self.backend, self.index))
    }
}

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown { found: name.to_owned() };
        let lower = name.trim().to_ascii_lowercase();
        if lower == "best" || lower == "auto" {
            return Self::best();
        }
        let (family, index) = match lower.split_once(':') {
            Some((family, index)) => (family, Some(index.parse().map_err(|_| unknown())?)),
            None => (lower.as_str(), None),
        };
        let backend = Backend::ALL.into_iter().find(|backend| backend.name() == family).ok_or_else(unknown)?;
        Self::open(backend, index)
    }
}

fn display_name(backend: Backend, index: Option<usize>) -> String {
    match index {
        Some(index) => format!("{}:{index}", backend.name()),
        None => backend.name().to_owned(),
    }
}

/// burn's device of this family and index; the error says what the machine has instead.
#[allow(unreachable_patterns, unused_variables, reason = "which arms are there depends on the features")]
fn open_burn_device(backend: Backend, index: Option<usize>) -> Result<BurnDevice, String> {
    match backend {
        #[cfg(feature = "cpu")]
        Backend::Cpu => Ok(BurnDevice::flex()),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu => numbered(index, burn::tensor::DeviceType::Wgpu, || {
            BurnDevice::wgpu(burn::tensor::DeviceKind::DefaultDevice)
        }),
        #[cfg(feature = "vulkan")]
        Backend::Vulkan => numbered(index, burn::tensor::DeviceType::Vulkan, || {
            BurnDevice::vulkan(burn::tensor::DeviceKind::DefaultDevice)
        }),
        #[cfg(feature = "metal")]
        Backend::Metal => numbered(index, burn::tensor::DeviceType::Metal, || {
            BurnDevice::metal(burn::tensor::DeviceKind::DefaultDevice)
        }),
        #[cfg(feature = "cuda")]
        Backend::Cuda => {
            cuda_driver()?;
            numbered(Some(index.unwrap_or(0)), burn::tensor::DeviceType::Cuda, || BurnDevice::cuda(0))
        }
        #[cfg(feature = "rocm")]
        Backend::Rocm => numbered(Some(index.unwrap_or(0)), burn::tensor::DeviceType::Rocm, || BurnDevice::rocm(0)),
        _ => Err("this backend is not compiled in".to_owned()),
    }
}

/// The device of the family with this index in burn's enumeration, or the family's default without one.
#[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
fn numbered(
    index: Option<usize>,
    family: burn::tensor::DeviceType,
    default: impl FnOnce() -> BurnDevice,
) -> Result<BurnDevice, String> {
    let Some(index) = index else { return Ok(default()) };
    let devices = BurnDevice::enumerate(family).into_vec();
    let found = devices.len();
    devices
        .into_iter()
        .nth(index)
        .ok_or_else(|| format!("found {found} such device(s), which are numbered from 0; index {index} is past them"))
}

/// The CUDA runtime thread dies of a missing driver where nobody sees it, so the driver is looked for first.
#[cfg(feature = "cuda")]
fn cuda_driver() -> Result<(), String> {
    let name = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
    // SAFETY: the driver library's initialisers are those of the system's own NVIDIA driver, which the CUDA
    // runtime would load in the same way a moment later.
    match unsafe { libloading::Library::new(name) } {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("the NVIDIA driver ({name}) was not found: {error}")),
    }
}

/// Computes 1 + 2 there and reads it back.
fn answers(device: &BurnDevice) -> Result<(), String> {
    let sum = Tensor::<1>::from_floats([1.0], device) + Tensor::<1>::from_floats([2.0], device);
    device.sync().map_err(|error| format!("it does not answer: {error:?}"))?;
    let data = sum.try_into_data().map_err(|error| format!("it does not answer: {error:?}"))?;
    match data.convert::<f32>().try_to_vec::<f32>() {
        Ok(values) if values == [3.0] => Ok(()),
        Ok(values) => Err(format!("it computed 1 + 2 = {values:?}")),
        Err(error) => Err(format!("it does not answer: {error:?}")),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("its driver failed: {}", text.unwrap_or("no reason given").lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_names_say_what_is_expected() {
        for name in ["", "gpu", "cpu:x", "cuda:-1", "wgpu:0:1"] {
            let error = name.parse::<Device>().expect_err("not a device").to_string();
            assert!(error.contains("cuda:1"), "{name}: {error}");
        }
    }

    #[test]
    fn a_backend_that_is_not_compiled_in_names_its_feature() {
        for backend in Backend::ALL.into_iter().filter(|backend| !backend.is_compiled_in()) {
            let error = backend.name().parse::<Device>().expect_err("not in this build").to_string();
            assert!(error.contains(&format!("feature `{}`", backend.name())), "{error}");
        }
    }

    #[cfg(feature = "cpu")]
    #[test]
    fn the_cpu_is_there_once() {
        assert!(Device::available().contains(&Device::cpu()));
        assert_eq!("cpu:0".parse::<Device>().expect("the first").backend(), Backend::Cpu);
        let error = "cpu:3".parse::<Device>().expect_err("there is one").to_string();
        assert!(error.contains("found 3"), "{error}");
    }

    #[cfg(feature = "cpu")]
    #[test]
    fn autodiff_is_kept_once() {
        let device = Device::cpu().autodiff().autodiff();
        assert!(device.is_autodiff());
        assert_eq!(device.to_string(), "cpu");
    }
}
