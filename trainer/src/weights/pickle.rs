//! The arrays that PyTorch's objects are made of, found without running anything of them. Knows no
//! files: an array only names the storage that its numbers lie in.

use std::collections::BTreeMap;
use std::io::BufRead;

use candle_core::pickle::{Object, Stack};

use super::file::Trained;
use super::number::Dtype;

/// An array on a storage.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Array {
    pub(super) storage: Storage,
    /// Numbers of the storage before its first.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// Numbers from one entry of an axis to the next.
    pub(super) strides: Vec<usize>,
}

/// Numbers that lie in some other place under a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Storage {
    pub(super) key: String,
    pub(super) dtype: Dtype,
    pub(super) count: usize,
}

/// One object; what follows it is left unread.
///
/// # Errors
/// If it ends early, or has parts that no weights have.
pub(super) fn read(reader: &mut impl BufRead) -> Result<Object, candle_core::Error> {
    let mut stack = Stack::empty();
    stack.read_loop(reader)?;
    stack.finalize()
}

/// The arrays of a state dict, which lies at the top or under `state_dict`, or of a module and the
/// modules in it.
///
/// # Errors
/// If an array is not described as PyTorch does; the message names it.
pub(super) fn arrays(object: &Object) -> Result<BTreeMap<String, Array>, String> {
    let mut found = BTreeMap::new();
    match object {
        Object::Dict(entries) => {
            let whole = entries
                .iter()
                .find(|(key, _)| matches!(key, Object::Unicode(key) if key == "state_dict"));

            match whole {
                Some((_, Object::Dict(entries))) => walk("", entries, &mut found)?,
                _ => walk("", entries, &mut found)?,
            }
        }
        Object::Build { args, .. } => {
            if let Object::Dict(entries) = &**args {
                walk("", entries, &mut found)?;
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
pub(super) fn trained(object: &Object) -> Trained {
    let Object::Dict(entries) = object else {
        return Trained::default();
    };

    let number = |name: &str| {
        let named = |(key, _): &&(Object, Object)| matches!(key, Object::Unicode(k) if k == name);
        count(&entries.iter().find(named)?.1).map(|number| number as u64)
    };

    Trained {
        epoch: number("epoch"),
        step: number("step"),
    }
}

fn walk(
    prefix: &str,
    entries: &[(Object, Object)],
    found: &mut BTreeMap<String, Array>,
) -> Result<(), String> {
    for (key, value) in entries {
        let Object::Unicode(key) = key else { continue };
        let name = format!("{prefix}{key}");
        match value {
            Object::Build { args, .. } => {
                if let Object::Dict(entries) = &**args {
                    walk(&format!("{name}."), entries, found)?;
                }
            }
            value => {
                if let Some(array) = array(value) {
                    found.insert(name.clone(), array.map_err(|why| format!("{name} {why}"))?);
                }
            }
        }
    }

    Ok(())
}

/// The array that an object is; `None` if it is something else.
fn array(object: &Object) -> Option<Result<Array, String>> {
    let Object::Reduce { callable, args } = object else {
        return None;
    };

    let (Object::Class { class_name, .. }, Object::Tuple(args)) = (&**callable, &**args) else {
        return None;
    };

    match (class_name.as_str(), &args[..]) {
        ("_rebuild_tensor_v2", [storage, offset, shape, strides, ..]) => {
            Some(on_storage(storage, offset, shape, strides))
        }
        ("_rebuild_parameter", [inner, ..]) => array(inner),
        ("_rebuild_from_type_v2", [callable, _, args, ..]) => {
            let callable = Box::new(callable.clone());
            let args = Box::new(args.clone());
            array(&Object::Reduce { callable, args })
        }
        _ => None,
    }
}

fn on_storage(
    storage: &Object,
    offset: &Object,
    shape: &Object,
    strides: &Object,
) -> Result<Array, String> {
    let what = || "is described in a way that PyTorch does not use".to_owned();
    let array = Array {
        storage: self::storage(storage).ok_or_else(what)??,
        offset: count(offset).ok_or_else(what)?,
        shape: counts(shape).ok_or_else(what)?,
        strides: counts(strides).ok_or_else(what)?,
    };

    if array.shape.len() != array.strides.len() {
        return Err(what());
    }

    Ok(array)
}

/// Every storage that an object or anything in it names.
pub(super) fn storages(object: &Object, found: &mut BTreeMap<String, Dtype>) {
    match object {
        Object::PersistentLoad(_) => {
            if let Some(Ok(storage)) = storage(object) {
                found.insert(storage.key, storage.dtype);
            }
        }
        Object::Tuple(parts) | Object::List(parts) => {
            parts.iter().for_each(|part| storages(part, found));
        }
        Object::Dict(entries) => entries.iter().for_each(|(_, value)| storages(value, found)),
        Object::Reduce { callable, args } | Object::Build { callable, args } => {
            [callable, args]
                .iter()
                .for_each(|part| storages(part, found));
        }
        _ => {}
    }
}

fn storage(object: &Object) -> Option<Result<Storage, String>> {
    let Object::PersistentLoad(id) = object else {
        return None;
    };

    let Object::Tuple(id) = &**id else {
        return None;
    };

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
    let count = count(size)?;
    let dtype = dtype(class_name).ok_or_else(|| format!("is a {class_name}"));
    Some(dtype.map(|dtype| Storage { key, dtype, count }))
}

fn dtype(class: &str) -> Option<Dtype> {
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

fn count(object: &Object) -> Option<usize> {
    match object {
        Object::Int(count) => usize::try_from(*count).ok(),
        Object::Long(count) => usize::try_from(*count).ok(),
        _ => None,
    }
}

fn counts(object: &Object) -> Option<Vec<usize>> {
    match object {
        Object::Tuple(parts) => parts.iter().map(count).collect(),
        _ => None,
    }
}
