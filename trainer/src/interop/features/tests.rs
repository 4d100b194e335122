use bytes::Bytes;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{ListAccessor, RowAccessor};

use super::*;

const FEATURES: [f32; 6] = [0.1, -0.2, 0.3, 1.0, f32::MIN_POSITIVE, -0.0];

/// A file of three features in two parts, and what is written beside it.
fn written(
    format: FeatureFormat,
    of: FeatureKind,
    ids: &[ItemId; 3],
) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut file = Vec::new();
    let mut writer = FeatureWriter::new(format, of, 3, 2, &mut file).unwrap();
    writer.write_features(&ids[..1], &FEATURES[..2]).unwrap();
    writer.write_features(&ids[1..], &FEATURES[2..]).unwrap();
    let beside = writer.finish().unwrap();

    (file, beside)
}

fn numbers() -> [ItemId; 3] {
    [7, 12_345_678_901, 0].map(ItemId::from)
}

fn names() -> [ItemId; 3] {
    ["7", "a", "猫.png"].map(|name| ItemId::parse(name).unwrap())
}

#[test]
fn lines_are_the_references() {
    let (file, beside) = written(FeatureFormat::Jsonl, FeatureKind::Texts, &names());
    let text = "{\"text_id\":7,\"feature\":[0.1,-0.2]}\n{\"text_id\":\"a\",\"feature\":[0.3,1.0]}\n\
                {\"text_id\":\"猫.png\",\"feature\":[1.1754944e-38,-0.0]}\n";
    assert_eq!((std::str::from_utf8(&file).unwrap(), beside), (text, None));
    let (file, _) = written(FeatureFormat::Jsonl, FeatureKind::Images, &numbers());

    assert!(file.starts_with(b"{\"image_id\":7,"));
}

#[test]
fn an_array_has_its_shape_its_numbers_and_its_ids_beside_it() {
    let (file, beside) = written(FeatureFormat::Npy, FeatureKind::Images, &names());
    assert_eq!(&file[..8], b"\x93NUMPY\x01\x00");
    let length = usize::from(u16::from_le_bytes([file[8], file[9]]));
    let (head, numbers) = file.split_at(10 + length);
    assert!(head.len().is_multiple_of(64) && head.ends_with(b"\n"));
    let told = std::str::from_utf8(&head[10..]).unwrap();

    assert!(
        told.contains("'descr': '<f4'") && told.contains("'shape': (3, 2)"),
        "{told}"
    );

    let numbers: Vec<_> = numbers
        .chunks(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();

    assert_eq!(numbers, FEATURES);
    assert_eq!(beside.unwrap(), "7\n\"a\"\n\"猫.png\"\n".as_bytes());
}

#[test]
fn a_table_has_a_row_for_each_with_numbers_as_ids_where_all_are() {
    for ids in [numbers(), names()] {
        let (file, beside) = written(FeatureFormat::Parquet, FeatureKind::Images, &ids);
        assert_eq!(beside, None);
        let reader = SerializedFileReader::new(Bytes::from(file)).unwrap();
        let rows: Vec<_> = reader
            .get_row_iter(None)
            .unwrap()
            .map(Result::unwrap)
            .collect();

        assert_eq!(rows.len(), 3);
        for ((row, id), feature) in rows.iter().zip(&ids).zip(FEATURES.chunks(2)) {
            let found = match ids[1] {
                ItemId::Number(_) => row.get_long(0).unwrap().to_string(),
                ItemId::Name(_) => row.get_string(0).unwrap().clone(),
            };

            assert_eq!(found, id.to_string());
            let list = row.get_list(1).unwrap();
            let found: Vec<_> = (0..list.len())
                .map(|at| list.get_float(at).unwrap())
                .collect();

            assert_eq!(found, feature);
        }
    }
}

#[test]
fn the_end_of_a_name_says_the_format() {
    let rows = [
        ("a.npy", FeatureFormat::Npy),
        ("a.parquet", FeatureFormat::Parquet),
    ];

    for (name, format) in rows.into_iter().chain([
        ("a.jsonl", FeatureFormat::Jsonl),
        ("a", FeatureFormat::Jsonl),
    ]) {
        assert_eq!(format_from_path(Path::new(name)), format, "{name}");
    }
}
