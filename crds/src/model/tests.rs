use super::presets::resnet_tower;
use super::*;

#[test]
fn published_models_are_valid() {
    for architecture in Architecture::PUBLISHED {
        assert_eq!(
            architecture.published_model().unwrap().validation_error(),
            None,
            "{architecture:?}"
        );
    }

    assert_eq!(Architecture::Custom.published_model(), None);
}

#[test]
fn published_architectures_are_recognized_at_any_dropout_rate() {
    for architecture in Architecture::PUBLISHED {
        let mut model = architecture.published_model().unwrap();
        model.text.hidden_dropout_percent = 0;
        assert_eq!(Architecture::from_model(&model), Some(architecture));
        model.text.layers += 1;
        assert_eq!(
            Architecture::from_model(&model),
            None,
            "{architecture:?} with an additional layer"
        );
    }
}

#[test]
fn violated_constraints_are_named() {
    type Change = fn(&mut ModelConfig);
    let table: [(&str, Change); 9] = [
        ("embedDim is 0", |m| m.embed_dim = 0),
        ("exactly one of vit and resnet", |m| m.image.vit = None),
        ("exactly one of vit and resnet", |m| {
            m.image.resnet = resnet_tower(32, [1; 4], 8).resnet
        }),
        (
            "image.resolution is 225; it must be a multiple of image.vit.patchSize, 16",
            |m| {
                m.image.resolution = 225;
            },
        ),
        (
            "image.resolution is 48; it must be a multiple of five halvings, 32",
            |m| {
                m.image = resnet_tower(48, [1; 4], 8);
            },
        ),
        ("four numbers of at least 1", |m| {
            m.image = resnet_tower(32, [1, 0, 1, 1], 8)
        }),
        (
            "text.width is 768; it must be a multiple of text.heads, 7",
            |m| m.text.heads = 7,
        ),
        ("text drops 100 %", |m| m.text.hidden_dropout_percent = 100),
        ("text.positions is 2", |m| m.text.positions = 2),
    ];

    for (expected, change) in table {
        let mut model = Architecture::VitB16.published_model().unwrap();
        change(&mut model);
        let problem = model.validation_error().unwrap();
        assert!(problem.contains(expected), "{problem}");
    }
}
