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
    cpu::values(tensor)
}

/// The memory of an `f32` tensor of the CPU that nobody else holds; `None`, and the tensor is dropped, for any other.
pub(crate) fn into_vec<const D: usize>(tensor: Tensor<D>) -> Option<Vec<f32>> {
    cpu::into_vec(tensor)
}

/// A tensor of these numbers, which are moved, not copied, where the device is the CPU.
pub fn from_values<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

#[cfg(feature = "cpu")]
mod cpu {
    use std::ops::Deref;

    use burn::backend::Flex;
    use burn::tensor::{DType, Tensor};
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

    pub fn values<const D: usize>(tensor: &Tensor<D>) -> Option<Values> {
        if tensor.dtype() != DType::F32 {
            return None;
        }
        let tensor = tensor.clone().try_into_primitive::<Flex>().ok()?;
        Some(Values(if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }))
    }

    pub fn into_vec<const D: usize>(tensor: Tensor<D>) -> Option<Vec<f32>> {
        if tensor.dtype() != DType::F32 {
            return None;
        }
        let tensor = tensor.try_into_primitive::<Flex>().ok()?;
        let whole = tensor.is_unique() && tensor.is_contiguous() && tensor.layout().start_offset() == 0;
        if whole { tensor.into_data().try_into_vec().ok() } else { None }
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

    pub fn values<const D: usize>(_tensor: &Tensor<D>) -> Option<Values> {
        None
    }

    pub fn into_vec<const D: usize>(_tensor: Tensor<D>) -> Option<Vec<f32>> {
        None
    }
}
