//! The Python names that a pickle of tensors needs, and nothing else: each stands for an action of this crate, none is
//! ever looked up or called.

use crate::dtype::Dtype;

/// A name on the allow-list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    /// `collections.OrderedDict`: a dictionary.
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`.
    RebuildTensorV2,
    /// `torch._utils._rebuild_tensor_v3`, whose storage is untyped and whose dtype is an argument.
    RebuildTensorV3,
    /// `torch._utils._rebuild_parameter`.
    RebuildParameter,
    /// A typed storage (`torch.FloatStorage`), or `None` for `torch.storage.UntypedStorage`.
    Storage(Option<Dtype>),
    /// A dtype as a value (`torch.float32`).
    Dtype(Dtype),
    /// `torch.Size`, `torch.device`: values beside the weights, which are skipped.
    Skipped,
}

/// Looks a name up.
pub(crate) fn find(module: &str, name: &str) -> Option<Global> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensorV2,
        ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTensorV3,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("torch.storage", "UntypedStorage") | ("torch", "UntypedStorage") => Global::Storage(None),
        ("torch", "Size" | "device") => Global::Skipped,
        ("torch", name) => match name.strip_suffix("Storage") {
            Some(kind) => Global::Storage(Some(storage(kind)?)),
            None => Global::Dtype(dtype(name)?),
        },
        _ => return None,
    })
}

/// The type of `torch.<kind>Storage`.
fn storage(kind: &str) -> Option<Dtype> {
    Some(match kind {
        "Double" => Dtype::F64,
        "Float" => Dtype::F32,
        "Half" => Dtype::F16,
        "BFloat16" => Dtype::BF16,
        "Long" => Dtype::I64,
        "Int" => Dtype::I32,
        "Short" => Dtype::I16,
        "Char" => Dtype::I8,
        "Byte" => Dtype::U8,
        "Bool" => Dtype::Bool,
        "ComplexFloat" => Dtype::C64,
        _ => return None,
    })
}

/// The type of `torch.<name>`.
fn dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "float64" | "double" => Dtype::F64,
        "float32" | "float" => Dtype::F32,
        "float16" | "half" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "int64" | "long" => Dtype::I64,
        "int32" | "int" => Dtype::I32,
        "int16" | "short" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint64" => Dtype::U64,
        "uint32" => Dtype::U32,
        "uint16" => Dtype::U16,
        "uint8" => Dtype::U8,
        "bool" => Dtype::Bool,
        "complex64" => Dtype::C64,
        "float8_e4m3fn" => Dtype::F8E4M3,
        "float8_e5m2" => Dtype::F8E5M2,
        "float8_e4m3fnuz" => Dtype::F8E4M3FNUZ,
        "float8_e5m2fnuz" => Dtype::F8E5M2FNUZ,
        "float8_e8m0fnu" => Dtype::F8E8M0,
        _ => return None,
    })
}
