//! Devices, dtypes and the operations that language models need, on every burn backend.
//!
//! Three things live here: [`Device`], which a user picks by name; [`FloatDtype`] and the policy that says
//! which of them a device computes in; and [`ops`], one room for each operation, with its contract, a
//! reference that runs on every backend, and the faster kernels of single backends beside it.
//! There are no layers and no parameters here: those are the next crate up.

mod buffers;
mod device;
mod dtype;
pub mod kv;
pub mod ops;
mod threads;
mod values;

pub use device::{Backend, Device, DeviceError};
pub use dtype::{DtypeError, FloatDtype};
pub use threads::{ThreadsError, set_threads, threads};
pub use values::{Values, from_values, values};
