use std::collections::BTreeMap;

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::*;

#[test]
fn every_golden_picture_becomes_the_references_pixels() {
    let folder = tempfile::tempdir().unwrap();
    let list = std::fs::read(golden("images/usual.json")).unwrap();
    let list: BTreeMap<String, Value> = serde_json::from_slice(&list).unwrap();

    for side in [224u64, 336] {
        let output = folder.path().join("pixels.safetensors");
        let files: Vec<_> = list
            .iter()
            .filter(|(_, file)| file["side"] == side)
            .collect();

        assert!(!files.is_empty());
        let paths: Vec<_> = files
            .iter()
            .map(|(name, _)| golden("images/usual").join(name))
            .collect();

        let text = side.to_string();
        let mut arguments = vec!["preprocess", "--size", &text, "--output", words(&output)];
        arguments.extend(paths.iter().map(|path| words(path)));
        succeed(&arguments, b"");
        let bytes = std::fs::read(&output).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();

        assert_eq!(tensors.len(), 2 * files.len());
        for (name, file) in files {
            let resized = tensors.tensor(&format!("resized/{name}")).unwrap();
            let side = side as usize;
            assert_eq!(
                (resized.dtype(), resized.shape()),
                (Dtype::U8, &[side, side, 3][..])
            );

            let digest = Sha256::digest(resized.data());
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(digest, file["resized"], "{name}");
            let pixels = tensors.tensor(&format!("pixels/{name}")).unwrap();
            assert_eq!(
                (pixels.dtype(), pixels.shape()),
                (Dtype::F32, &[3, side, side][..])
            );

            let values = pixels.data().as_chunks().0;
            for sample in file["normalised"].as_array().unwrap() {
                let place = sample[0].as_u64().unwrap();
                let right = sample[1].as_f64().unwrap();
                let found = f32::from_le_bytes(values[place as usize]);
                assert!((f64::from(found) - right).abs() < 1e-6, "{name} at {place}");
            }
        }
    }
}

#[test]
fn pictures_that_cannot_be_used_leave_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let [output, text] = ["out", "a.png"].map(|name| folder.path().join(name));
    std::fs::write(&text, "no picture").unwrap();
    let good = golden("images/usual/png_gray.png");
    let run = |image: &Path, code, expected: &str| {
        let files = ["--output", words(&output), words(&good), words(image)];
        refuse(
            &[&["preprocess", "--size", "32"], &files[..]].concat(),
            b"",
            code,
            expected,
        );
    };

    run(&text, 65, "a.png: an image begins with the bytes");
    run(&folder.path().join("none.png"), 78, "none.png");
    run(
        &folder.path().join("png_gray.png"),
        64,
        "two images are called png_gray.png",
    );

    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
