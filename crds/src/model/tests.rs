use serde_json::Value;

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
        ("four numbers of 1 to 128", |m| {
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

/// The fields of a schema that have a maximum, by path, with it.
fn schema_maximums(
    path: &str,
    schema: &Value,
    definitions: &Value,
    found: &mut Vec<(String, i64)>,
) {
    let referenced = |schema: &Value| {
        let name = schema["$ref"].as_str()?.rsplit('/').next()?.to_owned();
        Some(definitions[name].clone())
    };

    let parts = schema["anyOf"].as_array();
    let part = parts.and_then(|parts| parts.iter().find_map(referenced));
    let schema = referenced(schema)
        .or(part)
        .unwrap_or_else(|| schema.clone());
    found.extend(
        schema["maximum"]
            .as_i64()
            .map(|most| (path.to_owned(), most)),
    );
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        schema_maximums(&format!("{path}/{name}"), field, definitions, found);
    }
}

#[test]
fn the_schemas_maximums_hold_for_configurations_that_people_write() {
    let schema = serde_json::to_value(schemars::schema_for!(ModelConfig)).unwrap();
    let mut maximums = Vec::new();
    schema_maximums("", &schema, &schema["$defs"], &mut maximums);
    // Sizes, which take memory; a rate takes none.
    maximums.retain(|(path, _)| !path.ends_with("Percent"));
    assert!(maximums.len() >= 12, "{maximums:?}");

    let mut resnet = Architecture::VitB16.published_model().unwrap();
    resnet.image = resnet_tower(32, [1; 4], 8);
    for (path, maximum) in maximums {
        let model = match path.starts_with("/image/resnet") {
            true => resnet.clone(),
            false => Architecture::VitB16.published_model().unwrap(),
        };

        let mut value = serde_json::to_value(model).unwrap();
        *value.pointer_mut(&path).unwrap() = (maximum + 1).into();
        let changed: ModelConfig = serde_json::from_value(value).unwrap();
        let field = path.trim_start_matches('/').replace('/', ".");
        let problems = changed.problems();
        let is_named = problems.iter().any(|problem| problem.path == field);
        assert!(is_named, "{path}: {problems:?}");
    }
}
