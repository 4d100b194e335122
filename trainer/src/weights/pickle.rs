//! The tensors in a pickle of PyTorch, found without running anything of it. Knows no files: a tensor only
//! names the storage that its values lie in.
//!
//! A pickle is a program for a stack machine whose REDUCE opcode calls any importable function, which is
//! why `torch.load` of an untrusted file runs untrusted code. Here opcodes only build a tree of
//! [`Object`]s; of its calls, those that PyTorch rebuilds tensors with are recognised by name.

mod limits;

use std::collections::BTreeMap;
use std::io::BufRead;

use candle_core::pickle::{Object, Stack};

use super::dtype_convert::Dtype;
use super::tensor_file::RecordedProgress;

/// An array on a storage.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TorchTensor {
    pub(super) storage: TorchStorage,
    /// Numbers of the storage before its first.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// Numbers from one entry of an axis to the next.
    pub(super) strides: Vec<usize>,
}

/// Numbers that lie in some other place under a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TorchStorage {
    pub(super) key: String,
    pub(super) dtype: Dtype,
    pub(super) count: usize,
}

/// One object; what follows it is left unread.
///
/// # Errors
/// If it ends early, or has parts that no weights have.
pub(super) fn read_object(reader: &mut impl BufRead) -> Result<Object, String> {
    // candle trusts the lengths that a file declares, and builds whatever it says.
    let bytes = limits::read_bounded(reader)?;
    let mut stack = Stack::empty();
    let built = stack.read_loop(&mut &bytes[..]);
    built
        .and_then(|()| stack.finalize())
        .map_err(|error| error.to_string())
}

/// The arrays of a state dict, which lies at the top or under `state_dict`, or of a module and the
/// modules in it.
///
/// # Errors
/// If an array is not described as PyTorch does; the message names it.
pub(super) fn collect_tensors(object: &Object) -> Result<BTreeMap<String, TorchTensor>, String> {
    let mut found = BTreeMap::new();
    match object {
        Object::Dict(entries) => {
            // Training checkpoints nest the model under this key; `torch.save(model.state_dict())` does not.
            let nested = entries
                .iter()
                .find(|(key, _)| matches!(key, Object::Unicode(key) if key == "state_dict"));

            match nested {
                Some((_, Object::Dict(entries))) => walk_state_dict("", entries, &mut found)?,
                _ => walk_state_dict("", entries, &mut found)?,
            }
        }
        // TorchScript pickles modules as objects whose state holds tensors and modules.
        Object::Build { args, .. } => {
            if let Object::Dict(entries) = &**args {
                walk_state_dict("", entries, &mut found)?;
            }
        }
        _ => {}
    }

    match found.is_empty() {
        false => Ok(found),
        true => Err("it holds no tensors by name, neither at its top nor under state_dict".into()),
    }
}

/// How long a checkpoint says that it was trained.
pub(super) fn recorded_progress(object: &Object) -> RecordedProgress {
    let Object::Dict(entries) = object else {
        return RecordedProgress::default();
    };

    let number = |name: &str| {
        let named = |(key, _): &&(Object, Object)| matches!(key, Object::Unicode(k) if k == name);
        parse_usize(&entries.iter().find(named)?.1).map(|number| number as u64)
    };

    RecordedProgress {
        epoch: number("epoch"),
        step: number("step"),
    }
}

fn walk_state_dict(
    prefix: &str,
    entries: &[(Object, Object)],
    found: &mut BTreeMap<String, TorchTensor>,
) -> Result<(), String> {
    for (key, value) in entries {
        let Object::Unicode(key) = key else { continue };
        let name = format!("{prefix}{key}");
        match value {
            Object::Build { args, .. } => {
                if let Object::Dict(entries) = &**args {
                    walk_state_dict(&format!("{name}."), entries, found)?;
                }
            }
            value => {
                if let Some(array) = parse_tensor(value) {
                    found.insert(name.clone(), array.map_err(|why| format!("{name} {why}"))?);
                }
            }
        }
    }

    Ok(())
}

/// The array that an object is; `None` if it is something else.
fn parse_tensor(object: &Object) -> Option<Result<TorchTensor, String>> {
    let Object::Reduce { callable, args } = object else {
        return None;
    };

    let (Object::Class { class_name, .. }, Object::Tuple(args)) = (&**callable, &**args) else {
        return None;
    };

    // Names of functions in `torch._utils` and `torch._tensor`; a parameter and a tensor subclass wrap the
    // call that rebuilds the tensor itself.
    match (class_name.as_str(), &args[..]) {
        ("_rebuild_tensor_v2", [storage, offset, shape, strides, ..]) => {
            Some(rebuild_tensor(storage, offset, shape, strides))
        }
        ("_rebuild_parameter", [inner, ..]) => parse_tensor(inner),
        ("_rebuild_from_type_v2", [callable, _, args, ..]) => {
            let callable = Box::new(callable.clone());
            let args = Box::new(args.clone());
            parse_tensor(&Object::Reduce { callable, args })
        }
        _ => None,
    }
}

fn rebuild_tensor(
    storage: &Object,
    offset: &Object,
    shape: &Object,
    strides: &Object,
) -> Result<TorchTensor, String> {
    let what = || "is described in a way that PyTorch does not use".to_owned();
    let tensor = TorchTensor {
        storage: parse_storage(storage).ok_or_else(what)??,
        offset: parse_usize(offset).ok_or_else(what)?,
        shape: parse_usize_tuple(shape).ok_or_else(what)?,
        strides: parse_usize_tuple(strides).ok_or_else(what)?,
    };

    if tensor.shape.len() != tensor.strides.len() {
        return Err(what());
    }

    Ok(tensor)
}

/// Every storage that an object or anything in it names.
pub(super) fn collect_storage_dtypes(object: &Object, found: &mut BTreeMap<String, Dtype>) {
    match object {
        Object::PersistentLoad(_) => {
            if let Some(Ok(storage)) = parse_storage(object) {
                found.insert(storage.key, storage.dtype);
            }
        }
        Object::Tuple(parts) | Object::List(parts) => {
            parts
                .iter()
                .for_each(|part| collect_storage_dtypes(part, found));
        }
        Object::Dict(entries) => entries
            .iter()
            .for_each(|(_, value)| collect_storage_dtypes(value, found)),
        Object::Reduce { callable, args } | Object::Build { callable, args } => {
            [callable, args]
                .iter()
                .for_each(|part| collect_storage_dtypes(part, found));
        }
        _ => {}
    }
}

fn parse_storage(object: &Object) -> Option<Result<TorchStorage, String>> {
    let Object::PersistentLoad(id) = object else {
        return None;
    };

    let Object::Tuple(id) = &**id else {
        return None;
    };

    // ("storage", storage class, key, device, number of elements).
    let [
        _,
        Object::Class { class_name, .. },
        Object::Unicode(key),
        _,
        size,
        ..,
    ] = &id[..]
    else {
        return None;
    };

    let key = key.clone();
    let count = parse_usize(size)?;
    let dtype = storage_dtype(class_name).ok_or_else(|| format!("is a {class_name}"));
    Some(dtype.map(|dtype| TorchStorage { key, dtype, count }))
}

fn storage_dtype(class: &str) -> Option<Dtype> {
    Some(match class {
        "FloatStorage" => Dtype::F32,
        "DoubleStorage" => Dtype::F64,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        _ => return None,
    })
}

fn parse_usize(object: &Object) -> Option<usize> {
    match object {
        Object::Int(count) => usize::try_from(*count).ok(),
        Object::Long(count) => usize::try_from(*count).ok(),
        _ => None,
    }
}

fn parse_usize_tuple(object: &Object) -> Option<Vec<usize>> {
    match object {
        Object::Tuple(parts) => parts.iter().map(parse_usize).collect(),
        _ => None,
    }
}
