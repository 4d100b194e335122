//! Whether this process can hold a model, or the features of a data set: asked before either is made. Trainings plan
//! their memory as a whole, in `train`.

use cnclip_crds::model::ModelConfig;
use cnclip_data::memory_limit::ensure_available;
use cnclip_nn::model::clip::Clip;

use crate::error::Result;

/// Values and gradients of a parameter in fp32, which are reserved together.
const BYTES_PER_PARAMETER: u64 = 4 + 4;
const BYTES_PER_NUMBER: u64 = 4;

/// # Errors
/// If the parameters of a model are more than the memory of this process.
pub(crate) fn ensure_model_fits(config: &ModelConfig) -> Result<()> {
    let parameters = Clip::param_layout(config).next_offset() as u64;
    let bytes = parameters.saturating_mul(BYTES_PER_PARAMETER);
    let what = format!("the {parameters} parameters of {config}");

    Ok(ensure_available(bytes, &what, "take a smaller model")?)
}

/// # Errors
/// If the features of the images of a data set are more than the memory of this process.
pub(crate) fn ensure_features_fit(uri: &str, images: u64, width: usize) -> Result<()> {
    let bytes = images
        .saturating_mul(width as u64)
        .saturating_mul(BYTES_PER_NUMBER);

    let what = format!("the features of the {images} images of {uri}");
    Ok(ensure_available(bytes, &what, "score a part of them")?)
}

#[cfg(test)]
mod tests {
    use cnclip_crds::model::Architecture;

    use super::*;
    use crate::error::Error;

    #[test]
    fn what_is_larger_than_any_memory_is_refused_with_its_size_and_advice() {
        let published = Architecture::VitB16.published_model().unwrap();
        let mut largest = published.clone();
        largest.text.vocab_size = 1_000_000;
        largest.text.width = 8192;
        largest.text.layers = 128;
        largest.text.intermediate = 32_768;

        ensure_model_fits(&published).unwrap();
        ensure_features_fit("s3://data/muge", 1000, 512).unwrap();

        let table = [
            (
                ensure_model_fits(&largest),
                "parameters of ViT 12×768 /16 at 224 px, BERT 128×8192",
                "take a smaller model",
            ),
            (
                ensure_features_fit("s3://data/muge", u64::MAX, 512),
                "images of s3://data/muge",
                "score a part of them",
            ),
        ];

        for (checked, what, advice) in table {
            let error = checked.unwrap_err();
            let text = error.to_string();
            assert!(text.contains(what) && text.contains(advice), "{text}");
            assert!(text.contains("GiB of memory"), "{text}");
            assert!(matches!(error, Error::Config(_)));
        }
    }
}
