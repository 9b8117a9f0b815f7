//! Tensors of the CPU as the slices that they are, for kernels that work on slices. Tensors of other devices, and those
//! with gradients, have no slice to show.

use burn::tensor::{DType, Device, Tensor, TensorData};

pub use self::cpu::Values;

/// The numbers of an `f32` tensor that lies in main memory without gradients recorded; `None` for any other.
///
/// Nothing is copied when the tensor is contiguous.
///
/// ```
/// use burn::tensor::Tensor;
/// use fornax_backend::{Device, values};
///
/// let device = Device::cpu();
/// let tensor = Tensor::<1>::from_floats([1.0, 2.0], device.as_burn());
/// assert_eq!(*values(&tensor).expect("on the CPU"), [1.0, 2.0]);
/// ```
pub fn values<const D: usize>(tensor: &Tensor<D>) -> Option<Values> {
    cpu::into_values(tensor.clone()).ok()
}

/// As [`values`], for a tensor that is no longer needed; a tensor without readable values comes back unchanged.
#[allow(clippy::result_large_err, reason = "the tensor goes on to another implementation")]
pub(crate) fn into_values<const D: usize>(tensor: Tensor<D>) -> Result<Values, Tensor<D>> {
    cpu::into_values(tensor)
}

/// A tensor of these numbers, which are moved, not copied, where the device is the CPU.
pub fn from_values<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

/// A tensor of the CPU, without gradients.
pub(crate) fn cpu_tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    cpu::tensor(values, shape)
}

#[cfg(feature = "cpu")]
mod cpu {
    use std::ops::Deref;

    use burn::backend::{BackendTensor, DispatchAutodiffContext, DispatchTensorKind, Flex};
    use burn::tensor::{DType, Tensor, TensorData};
    use burn_flex::FlexTensor;

    /// The numbers of a tensor, as a slice.
    #[derive(Debug)]
    pub struct Values(FlexTensor);

    impl Deref for Values {
        type Target = [f32];

        fn deref(&self) -> &[f32] {
            self.0.as_slice().expect("made of contiguous f32 alone")
        }
    }

    impl Values {
        /// The tensor again, where another operand rules out the kernels.
        pub(crate) fn into_tensor<const D: usize>(self) -> Tensor<D> {
            Tensor::from_primitive::<Flex>(self.0)
        }

        /// The memory, if nobody else holds it.
        pub(crate) fn into_vec(self) -> Option<Vec<f32>> {
            let whole = self.0.is_unique() && self.0.layout().start_offset() == 0;
            if whole { self.0.into_data().try_into_vec().ok() } else { None }
        }
    }

    #[allow(clippy::result_large_err, reason = "as above")]
    pub fn into_values<const D: usize>(tensor: Tensor<D>) -> Result<Values, Tensor<D>> {
        let tensor = tensor.into_dispatch();
        if tensor.autodiff != DispatchAutodiffContext::Disabled {
            return Err(Tensor::from_dispatch(tensor));
        }
        match tensor.kind {
            DispatchTensorKind::Flex(BackendTensor::Float(found)) if found.dtype() == DType::F32 => {
                Ok(Values(if found.is_contiguous() { found } else { found.to_contiguous() }))
            }
            kind => Err(Tensor::from_dispatch(burn::backend::DispatchTensor { kind, autodiff: tensor.autodiff })),
        }
    }

    pub fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        Tensor::from_primitive::<Flex>(FlexTensor::from_data(TensorData::new(values, shape)))
    }
}

#[cfg(not(feature = "cpu"))]
mod cpu {
    use std::ops::Deref;

    use burn::tensor::Tensor;

    /// The numbers of a tensor, as a slice; there are none in a build without the CPU.
    #[derive(Debug)]
    pub enum Values {}

    impl Deref for Values {
        type Target = [f32];

        fn deref(&self) -> &[f32] {
            match *self {}
        }
    }

    impl Values {
        pub(crate) fn into_tensor<const D: usize>(self) -> Tensor<D> {
            match self {}
        }

        pub(crate) fn into_vec(self) -> Option<Vec<f32>> {
            match self {}
        }
    }

    #[allow(clippy::result_large_err, reason = "as above")]
    pub fn into_values<const D: usize>(tensor: Tensor<D>) -> Result<Values, Tensor<D>> {
        Err(tensor)
    }

    pub fn tensor<const D: usize>(_values: Vec<f32>, _shape: [usize; D]) -> Tensor<D> {
        unreachable!("no operand is on the CPU in a build without it")
    }
}
