//! What the tests of all operations share: the device, seeded values, arrays in `f64`, and comparisons that say
//! where two results differ. No operation is implemented here.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use burn::tensor::{DType, Gradients, Tensor, TensorData};
use fornax_backend::{Device, FloatDtype};

/// How many shapes a test draws at random.
const RANDOM_SHAPES: usize = 300;
/// What a half-precision result may miss.
pub const HALF_UNIT: f64 = 2e-2;

/// The device under test, opened once.
pub fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| {
        let name = std::env::var("FORNAX_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
        name.parse().unwrap_or_else(|error| panic!("FORNAX_TEST_DEVICE: {error}"))
    })
}

/// The device under test where it is the CPU.
pub fn cpu() -> Option<&'static Device> {
    Some(device()).filter(|device| !device.is_gpu())
}

/// The half-precision types that the device computes in.
pub fn half_dtypes() -> impl Iterator<Item = FloatDtype> {
    [FloatDtype::F16, FloatDtype::Bf16].into_iter().filter(|&dtype| device().supports(dtype))
}

/// Seeds for tests on random shapes; none on a GPU.
pub fn random_shapes() -> impl Iterator<Item = Random> {
    (0..RANDOM_SHAPES).take_while(|_| cpu().is_some()).map(|seed| Random::new(seed as u64))
}

/// What an `f32` result may miss, relative to `1 + |expected|`, when it is a sum of this many terms.
pub fn unit(terms: usize) -> f64 {
    let unit = if device().is_gpu() { 1e-3 } else { 1e-5 };
    unit * (terms as f64 / 256.0).max(1.0)
}

/// SplitMix64: the same values on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// In `[-1, 1)`, a multiple of 2⁻²³, so that `f32` holds it exactly.
    pub fn value(&mut self) -> f64 {
        (self.bits() >> 40) as f64 / f64::from(1 << 23) - 1.0
    }

    /// In `1..=most`.
    pub fn size(&mut self, most: usize) -> usize {
        1 + (self.bits() >> 33) as usize % most
    }

    pub fn coin(&mut self) -> bool {
        self.size(2) == 1
    }
}

/// Numbers in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Array<const D: usize> {
    pub dims: [usize; D],
    pub values: Vec<f64>,
}

impl<const D: usize> Array<D> {
    pub fn from_fn(dims: [usize; D], mut value: impl FnMut([usize; D]) -> f64) -> Self {
        let count = dims.iter().product();
        Self { dims, values: (0..count).map(|flat| value(unravel(flat, dims))).collect() }
    }

    pub fn random(dims: [usize; D], random: &mut Random) -> Self {
        Self::from_fn(dims, |_| random.value())
    }

    pub fn at(&self, index: [usize; D]) -> f64 {
        self.values[ravel(index, self.dims)]
    }

    pub fn set(&mut self, index: [usize; D], value: f64) {
        self.values[ravel(index, self.dims)] = value;
    }

    /// The same numbers in another shape.
    pub fn reshaped<const E: usize>(&self, dims: [usize; E]) -> Array<E> {
        assert_eq!(dims.iter().product::<usize>(), self.values.len(), "the shapes hold different counts");
        Array { dims, values: self.values.clone() }
    }

    /// The `count` slices from `start` on of a dimension.
    pub fn narrow(&self, dim: usize, start: usize, count: usize) -> Self {
        let mut dims = self.dims;
        dims[dim] = count;
        Self::from_fn(dims, |mut index| {
            index[dim] += start;
            self.at(index)
        })
    }

    pub fn tensor(&self, device: &Device) -> Tensor<D> {
        let values: Vec<f32> = self.values.iter().map(|&value| value as f32).collect();
        Tensor::from_data(TensorData::new(values, self.dims), (device.as_burn(), DType::F32))
    }

    /// As a tensor of another type, and the values that were left by rounding to it.
    pub fn rounded(&self, device: &Device, dtype: FloatDtype) -> (Tensor<D>, Self) {
        let tensor = self.tensor(device).cast(DType::from(dtype));
        (tensor.clone(), Self::read(tensor))
    }

    /// With gradients recorded for it.
    pub fn tracked(&self, device: &Device) -> Tensor<D> {
        self.tensor(&device.autodiff()).require_grad()
    }

    pub fn read(tensor: Tensor<D>) -> Self {
        let dims = tensor.dims();
        let values = tensor.try_into_vec_as::<f32>().expect("the device answers");
        Self { dims, values: values.into_iter().map(f64::from).collect() }
    }
}

fn unravel<const D: usize>(mut flat: usize, dims: [usize; D]) -> [usize; D] {
    let mut index = [0; D];
    for dim in (0..D).rev() {
        index[dim] = flat % dims[dim];
        flat /= dims[dim];
    }
    index
}

fn ravel<const D: usize>(index: [usize; D], dims: [usize; D]) -> usize {
    index.into_iter().zip(dims).fold(0, |flat, (index, size)| {
        assert!(index < size, "index {index} of {size}");
        flat * size + index
    })
}

/// Every element within `unit · (1 + |expected|)`; NaN where NaN is expected, infinities equal.
#[track_caller]
pub fn assert_close<const D: usize>(case: impl Debug, found: Tensor<D>, expected: &Array<D>, unit: f64) {
    assert_eq!(found.dims(), expected.dims, "{case:?}: the shape");
    let found = Array::read(found);
    for (flat, (&found, &expected_value)) in found.values.iter().zip(&expected.values).enumerate() {
        let tolerance = unit * (1.0 + expected_value.abs());
        let same = if expected_value.is_finite() {
            (found - expected_value).abs() <= tolerance
        } else {
            found == expected_value || (found.is_nan() && expected_value.is_nan())
        };
        let index = unravel(flat, expected.dims);
        assert!(same, "{case:?} at {index:?}: found {found}, expected {expected_value}, tolerance {tolerance:e}");
    }
}

/// Every element with the same bits, in tensors of `f32`.
#[track_caller]
pub fn assert_identical<const D: usize>(case: impl Debug, found: Tensor<D>, expected: Tensor<D>) {
    assert_eq!(found.dims(), expected.dims(), "{case:?}: the shape");
    let dims = found.dims();
    let bits = |tensor: Tensor<D>| tensor.try_into_vec_as::<f32>().expect("the device answers");
    for (flat, (found, expected)) in bits(found).into_iter().zip(bits(expected)).enumerate() {
        let index = unravel(flat, dims);
        assert!(found.to_bits() == expected.to_bits(), "{case:?} at {index:?}: found {found:?}, expected {expected:?}");
    }
}

/// The call panics, and the message contains each of `parts`.
#[track_caller]
pub fn assert_panics<T>(parts: &[&str], call: impl FnOnce() -> T) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(call)) else { panic!("no panic where {parts:?} was expected") };
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let text = text.unwrap_or_default();
    for part in parts {
        assert!(text.contains(part), "expected {part:?} in the message {text:?}");
    }
}

/// `Σ y · coefficients`, which turns an operation into a number to differentiate.
pub fn loss<const D: usize>(y: &Array<D>, coefficients: &Array<D>) -> f64 {
    assert_eq!(y.dims, coefficients.dims, "a coefficient for each value");
    y.values.iter().zip(&coefficients.values).map(|(y, coefficient)| y * coefficient).sum()
}

/// The gradients of [`loss`] on the device.
pub fn backward<const D: usize>(y: Tensor<D>, coefficients: &Array<D>) -> Gradients {
    let coefficients = coefficients.tensor(&device().autodiff());
    (y * coefficients).sum().backward()
}

/// The gradient recorded for `x`, whose values are `at`, against central differences of `loss`.
#[track_caller]
pub fn assert_gradient<const D: usize>(
    case: impl Debug,
    gradients: &Gradients,
    x: &Tensor<D>,
    at: &Array<D>,
    loss: impl Fn(&Array<D>) -> f64,
) {
    const STEP: f64 = 1e-5;
    let found = x.grad(gradients).unwrap_or_else(|| panic!("{case:?}: no gradient was recorded"));
    let expected = Array::from_fn(at.dims, |index| {
        let at_offset = |offset: f64| {
            let mut moved = at.clone();
            moved.set(index, at.at(index) + offset);
            loss(&moved)
        };
        (at_offset(STEP) - at_offset(-STEP)) / (2.0 * STEP)
    });
    assert_close(case, found, &expected, 1e-4);
}
