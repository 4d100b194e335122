//! The validation rules of CnClipTraining.

use serde_json::{Value, json};

use crate::rule::{ANY_STORE, ANY_WEIGHTS, Changes, Rule, changed, rule};

/// A valid training.
pub(crate) fn training() -> Value {
    json!({
        "apiVersion": "cnclip.dev/v1alpha1", "kind": "CnClipTraining", "metadata": {"name": "sample"},
        "spec": {
            "model": {"architecture": "ViT-B-16"},
            "datasets": [{"name": "pairs", "uri": "s3://data/pairs/"}, {"name": "valid", "uri": "s3://data/valid/"}],
            "stages": [{"name": "align", "dataset": "pairs", "steps": 100, "globalBatchSize": 32, "learningRate": "1e-4"}],
            "artifacts": {"uri": "s3://runs/sample/"},
        },
    })
}

fn vit() -> Value {
    json!({
        "embedDim": 16,
        "image": {"resolution": 32, "vit": {"layers": 1, "width": 64, "patchSize": 8, "headWidth": 32}},
        "text": {"layers": 1, "width": 64, "heads": 2, "intermediate": 128, "positions": 64},
    })
}

fn resnet() -> Value {
    let image = json!({"resolution": 32, "resnet": {"layers": [1, 1, 1, 1], "width": 8}});
    changed(vit(), &[("/image", image)])
}

/// A custom model with a change to its towers.
fn custom(towers: Value, path: &'static str, value: Value) -> Changes {
    let towers = changed(towers, &[(path, value)]);
    vec![(
        "/spec/model",
        json!({"architecture": "Custom", "custom": towers, "contextLength": 32}),
    )]
}

fn weights(value: Value) -> Changes {
    vec![("/spec/model/initialWeights", value)]
}

fn stage(field: &'static str, value: Value) -> Changes {
    vec![(field, value)]
}

fn teacher(weight: &str) -> Value {
    json!({"teacher": "s3://models/large.pt", "weight": weight})
}

fn workers(value: Value) -> Changes {
    vec![("/spec/workers", value)]
}

/// All rules.
pub(crate) fn rules() -> Vec<Rule> {
    [
        tower_rules(),
        model_rules(),
        stage_rules(),
        worker_rules(),
        other_rules(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn tower_rules() -> Vec<Rule> {
    let both = json!({"resolution": 32, "vit": vit()["image"]["vit"], "resnet": resnet()["image"]["resnet"]});
    vec![
        rule(
            "image must have exactly one of vit and resnet",
            custom(vit(), "/embedDim", json!(8)),
            custom(vit(), "/image", both),
        ),
        rule(
            "image.resolution must be a multiple of image.vit.patchSize",
            custom(vit(), "/image/resolution", json!(40)),
            custom(vit(), "/image/resolution", json!(33)),
        ),
        rule(
            "image.vit.width must be a multiple of image.vit.headWidth",
            custom(vit(), "/image/vit/headWidth", json!(16)),
            custom(vit(), "/image/vit/headWidth", json!(24)),
        ),
        rule(
            "image.resolution must be a multiple of 32 for a resnet",
            custom(resnet(), "/image/resolution", json!(64)),
            custom(resnet(), "/image/resolution", json!(40)),
        ),
        rule(
            "image.resnet.width must be even",
            custom(resnet(), "/image/resnet/width", json!(4)),
            custom(resnet(), "/image/resnet/width", json!(5)),
        ),
        rule(
            "image.resnet.layers must be four numbers of 1 to 64",
            custom(resnet(), "/image/resnet/layers", json!([1, 2, 3, 64])),
            custom(resnet(), "/image/resnet/layers", json!([1, 2, 0, 3])),
        ),
        rule(
            "text.width must be a multiple of text.heads",
            custom(vit(), "/text/heads", json!(4)),
            custom(vit(), "/text/heads", json!(3)),
        ),
        rule(
            "contextLength must be at most the positions of the text tower",
            custom(vit(), "/text/positions", json!(32)),
            custom(vit(), "/text/positions", json!(31)),
        ),
        rule(
            "should be less than or equal to 4096",
            custom(vit(), "/embedDim", json!(4096)),
            custom(vit(), "/embedDim", json!(4097)),
        ),
        rule(
            "must have at most 4 items",
            custom(resnet(), "/image/resnet/layers", json!([1, 1, 1, 1])),
            custom(resnet(), "/image/resnet/layers", json!([1, 1, 1, 1, 1])),
        ),
    ]
}

fn model_rules() -> Vec<Rule> {
    vec![
        rule(
            "custom must be given when architecture is Custom",
            vec![("/spec/model/architecture", json!("RN50"))],
            vec![("/spec/model/architecture", json!("Custom"))],
        ),
        rule(
            "custom must be given when architecture is Custom, and only then",
            custom(vit(), "/embedDim", json!(8)),
            vec![("/spec/model/custom", vit())],
        ),
        rule(
            "supported values: \"RN50\", \"ViT-B-32\", \"ViT-B-16\"",
            vec![("/spec/model/architecture", json!("ViT-H-14"))],
            vec![("/spec/model/architecture", json!("ViT-B/16"))],
        ),
        rule(
            "give either model, or image and text",
            weights(json!({"image": "s3://a/b", "text": "s3://a/c"})),
            weights(json!({"model": "s3://a/b", "text": "s3://a/c"})),
        ),
        rule(
            "give either model, or image and text",
            weights(json!({"model": "s3://a/b"})),
            weights(json!({})),
        ),
        rule(
            ANY_WEIGHTS,
            weights(json!({"model": "gs://a/b"})),
            weights(json!({"model": "/models/b"})),
        ),
        rule(
            ANY_WEIGHTS,
            weights(json!({"image": "hf://laion/clip"})),
            weights(json!({"image": "ftp://a/b"})),
        ),
        rule(
            ANY_WEIGHTS,
            weights(json!({"text": "https://a/b"})),
            weights(json!({"text": "hf:/a"})),
        ),
        rule(
            ANY_STORE,
            vec![("/spec/model/vocabulary", json!({"uri": "file:///v"}))],
            vec![("/spec/model/vocabulary", json!({"uri": "v.txt"}))],
        ),
        rule(
            "must be 64 lower-case hexadecimal digits, as sha256sum prints them",
            vec![(
                "/spec/model/vocabulary",
                json!({"uri": "s3://a/v", "sha256": "0".repeat(64)}),
            )],
            vec![(
                "/spec/model/vocabulary",
                json!({"uri": "s3://a/v", "sha256": "F".repeat(64)}),
            )],
        ),
    ]
}

fn stage_rules() -> Vec<Rule> {
    let validation = |dataset: &str| json!({"dataset": dataset, "everySteps": 5});
    let again = json!({"name": "align", "dataset": "pairs", "steps": 9, "globalBatchSize": 32, "learningRate": "1e-4"});
    vec![
        rule(
            "each stage's dataset must be the name of one of spec.datasets",
            stage("/spec/stages/0/dataset", json!("valid")),
            stage("/spec/stages/0/dataset", json!("nowhere")),
        ),
        rule(
            "each stage's validation.dataset must be the name of one of spec.datasets",
            stage("/spec/stages/0/validation", validation("valid")),
            stage("/spec/stages/0/validation", validation("nowhere")),
        ),
        rule(
            "give exactly one of epochs and steps",
            vec![
                ("/spec/stages/0/epochs", json!(3)),
                ("/spec/stages/0/steps", Value::Null),
            ],
            stage("/spec/stages/0/epochs", json!(3)),
        ),
        rule(
            "give exactly one of epochs and steps",
            vec![],
            stage("/spec/stages/0/steps", Value::Null),
        ),
        rule(
            "warmupSteps must be less than steps",
            stage("/spec/stages/0/warmupSteps", json!(99)),
            stage("/spec/stages/0/warmupSteps", json!(100)),
        ),
        rule(
            "must be lower-case letters, digits and dashes",
            stage("/spec/stages/0/name", json!("a-1")),
            stage("/spec/stages/0/name", json!("Align")),
        ),
        rule(
            "must be a positive decimal such as \"1e-4\"",
            stage("/spec/stages/0/learningRate", json!("0.0001")),
            stage("/spec/stages/0/learningRate", json!("fast")),
        ),
        rule(
            "must be a positive decimal such as \"1e-4\"",
            stage("/spec/stages/0/learningRate", json!("2.5E-5")),
            stage("/spec/stages/0/learningRate", json!("0")),
        ),
        rule(
            "expected string",
            stage("/spec/stages/0/learningRate", json!("1")),
            stage("/spec/stages/0/learningRate", json!(1)),
        ),
        rule(
            "must be a decimal of at least 0 such as \"1e-3\"",
            stage("/spec/stages/0/weightDecay", json!("0")),
            stage("/spec/stages/0/weightDecay", json!("-1")),
        ),
        rule(
            "must be a positive decimal such as \"1.0\"",
            stage("/spec/stages/0/maxGradientNorm", json!("1")),
            stage("/spec/stages/0/maxGradientNorm", json!("0.0")),
        ),
        rule(
            "must be a decimal between 0 and 1 such as \"0.999\"",
            stage("/spec/stages/0/averageDecay", json!("0.9")),
            stage("/spec/stages/0/averageDecay", json!("1.0")),
        ),
        rule(
            "must be a positive decimal such as \"0.5\"",
            stage("/spec/stages/0/distillation", teacher("2")),
            stage("/spec/stages/0/distillation", teacher("0")),
        ),
        rule(
            "distillation trains the image tower: freeze must not be Image",
            stage("/spec/stages/0/distillation", teacher("0.5")),
            vec![
                ("/spec/stages/0/distillation", teacher("0.5")),
                ("/spec/stages/0/freeze", json!("Image")),
            ],
        ),
        rule(
            "each stage's microBatchSize must be at most globalBatchSize",
            stage("/spec/stages/0/microBatchSize", json!(32)),
            stage("/spec/stages/0/microBatchSize", json!(33)),
        ),
        rule(
            "must be a number of pairs from 1 to 4194304, or Auto",
            stage("/spec/stages/0/microBatchSize", json!("Auto")),
            stage("/spec/stages/0/microBatchSize", json!("Most")),
        ),
        rule(
            "must be a number of pairs from 1 to 4194304, or Auto",
            stage("/spec/stages/0/microBatchSize", json!(1)),
            stage("/spec/stages/0/microBatchSize", json!(0)),
        ),
        rule(
            "microBatchSize must not be Auto for a ResNet",
            vec![
                ("/spec/model", json!({"architecture": "RN50"})),
                ("/spec/stages/0/microBatchSize", json!(4)),
            ],
            vec![
                ("/spec/model", json!({"architecture": "RN50"})),
                ("/spec/stages/0/microBatchSize", json!("Auto")),
            ],
        ),
        rule(
            "each stage's globalBatchSize must be a multiple of workers.replicas",
            workers(json!({"replicas": 8})),
            workers(json!({"replicas": 3})),
        ),
        rule(
            "should be greater than or equal to 2",
            stage("/spec/stages/0/globalBatchSize", json!(2)),
            stage("/spec/stages/0/globalBatchSize", json!(1)),
        ),
        rule(
            "supported values: \"None\", \"Image\"",
            stage("/spec/stages/0/freeze", json!("Image")),
            stage("/spec/stages/0/freeze", json!("Text")),
        ),
        rule(
            "supported values: \"None\", \"CropFlip\", \"AutoAugment\"",
            stage("/spec/stages/0/augmentation", json!("CropFlip")),
            stage("/spec/stages/0/augmentation", json!("Blur")),
        ),
        rule(
            "duplicate entries for key",
            vec![],
            vec![("/spec/stages/1", again)],
        ),
        rule(
            "should have at least 1 items",
            vec![],
            vec![("/spec/stages", json!([]))],
        ),
        rule(
            "Too long: may not be more than 20",
            stage("/spec/stages/0/name", json!("a".repeat(20))),
            stage("/spec/stages/0/name", json!("a".repeat(21))),
        ),
    ]
}

fn worker_rules() -> Vec<Rule> {
    let resources =
        |limits: Value| workers(json!({"resources": {"limits": limits, "requests": limits}}));
    let gpu = json!({"nvidia.com/gpu": 1});
    vec![
        rule(
            "supported values: \"Fp32\", \"Bf16\"",
            workers(json!({"precision": "Bf16", "accelerator": "None"})),
            workers(json!({"precision": "Fp16"})),
        ),
        rule(
            "devices must be 1 when accelerator is None",
            workers(json!({"devices": 4})),
            workers(json!({"devices": 4, "accelerator": "None"})),
        ),
        rule(
            "leave nvidia.com/gpu out of resources: it is added from devices",
            resources(json!({"cpu": 2})),
            workers(json!({"resources": {"limits": gpu}})),
        ),
        rule(
            "leave nvidia.com/gpu out of resources",
            vec![],
            workers(json!({"resources": {"requests": gpu}})),
        ),
        rule(
            "each amount must be a Kubernetes quantity",
            resources(json!({"cpu": "500m", "memory": "8Gi"})),
            workers(json!({"resources": {"limits": {"memory": "8 GB"}}})),
        ),
        rule(
            "each amount must be a Kubernetes quantity",
            vec![],
            workers(json!({"resources": {"requests": {"cpu": "two"}}})),
        ),
        rule(
            "must be of type integer,string",
            resources(json!({"cpu": 3})),
            resources(json!({"cpu": 0.5})),
        ),
        rule(
            "supported values: \"Nvidia\", \"None\"",
            workers(json!({"accelerator": "None"})),
            workers(json!({"accelerator": "Cpu"})),
        ),
    ]
}

fn other_rules() -> Vec<Rule> {
    let name = "metadata.name must be at most 32 lower-case letters, digits and dashes and begin with a letter";
    vec![
        rule(
            name,
            vec![("/metadata/name", json!("a".repeat(32)))],
            vec![("/metadata/name", json!("a".repeat(33)))],
        ),
        rule(
            name,
            vec![("/metadata/name", json!("a-1"))],
            vec![("/metadata/name", json!("1-a"))],
        ),
        rule(
            name,
            vec![("/metadata/name", json!("a"))],
            vec![("/metadata/name", json!("a.b"))],
        ),
        rule(
            ANY_STORE,
            vec![("/spec/datasets/0/uri", json!("https://host/pairs/"))],
            vec![("/spec/datasets/0/uri", json!("pairs"))],
        ),
        rule(
            "must be a writable prefix",
            vec![("/spec/artifacts/uri", json!("file:///runs"))],
            vec![("/spec/artifacts/uri", json!("https://host/runs"))],
        ),
        rule(
            "should be greater than or equal to 1",
            vec![("/spec/checkpoint/everySeconds", json!(1))],
            vec![("/spec/checkpoint/everySeconds", json!(0))],
        ),
        rule(
            ".spec.stage: field not declared in schema",
            vec![],
            vec![("/spec/stage", json!({}))],
        ),
        rule(
            "field not declared in schema",
            vec![],
            vec![("/spec/stages/0/learningrate", json!("1e-4"))],
        ),
        rule(
            "should be less than or equal to 100",
            vec![("/spec/maxSkippedPercent", json!(100))],
            vec![("/spec/maxSkippedPercent", json!(101))],
        ),
        rule(
            "should be greater than or equal to 0",
            vec![("/spec/retries", json!({"application": 0}))],
            vec![("/spec/retries", json!({"application": -1}))],
        ),
        rule(
            "secretName: Required value",
            vec![("/spec/artifacts/credentials", json!({"secretName": "s3"}))],
            vec![("/spec/artifacts/credentials", json!({}))],
        ),
    ]
}

/// The fields of an existing object that must not change.
pub(crate) fn immutable_fields() -> Vec<Rule> {
    vec![
        rule(
            "is immutable: another model is another run",
            vec![("/spec/suspend", json!(true))],
            vec![("/spec/model/contextLength", json!(64))],
        ),
        rule(
            "names and order are immutable: other stages are another run",
            vec![("/spec/stages/0/learningRate", json!("2e-4"))],
            vec![("/spec/stages/0/name", json!("tune"))],
        ),
        rule(
            "uri is immutable: checkpoints already there would be lost from sight",
            vec![("/spec/artifacts/credentials", json!({"secretName": "s3"}))],
            vec![("/spec/artifacts/uri", json!("s3://runs/other/"))],
        ),
        rule(
            "is immutable: a resumed run would see other batches",
            vec![("/spec/seed", json!(0))],
            vec![("/spec/seed", json!(1))],
        ),
    ]
}
