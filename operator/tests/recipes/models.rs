//! The five models, and where the towers that each begins with are published.

/// One published model.
pub(crate) struct Model {
    /// Name of the preset.
    pub(crate) architecture: &'static str,
    /// Name of the recipe's file, and of its run.
    pub(crate) file: &'static str,
    /// The image tower that pretraining begins with.
    pub(crate) image: &'static str,
    /// The text tower that pretraining begins with.
    pub(crate) text: &'static str,
    /// The pretrained model that fine-tuning begins with.
    pub(crate) pretrained: &'static str,
    /// Too large for the memory of a device at the paper's batch without it.
    pub(crate) gradient_checkpointing: bool,
}

const BASE: &str = "hf://hfl/chinese-roberta-wwm-ext";

pub(crate) const MODELS: [Model; 5] = [
    Model {
        architecture: "RN50",
        file: "rn50",
        image: "s3://models/clip/RN50.pt",
        text: "hf://hfl/rbt3",
        pretrained: "hf://OFA-Sys/chinese-clip-rn50/clip_cn_rn50.pt",
        gradient_checkpointing: false,
    },
    Model {
        architecture: "ViT-B-16",
        file: "vit-b-16",
        image: "hf://openai/clip-vit-base-patch16",
        text: BASE,
        pretrained: "hf://OFA-Sys/chinese-clip-vit-base-patch16",
        gradient_checkpointing: false,
    },
    Model {
        architecture: "ViT-L-14",
        file: "vit-l-14",
        image: "hf://openai/clip-vit-large-patch14",
        text: BASE,
        pretrained: "hf://OFA-Sys/chinese-clip-vit-large-patch14",
        gradient_checkpointing: false,
    },
    Model {
        architecture: "ViT-L-14-336",
        file: "vit-l-14-336",
        image: "",
        text: "",
        pretrained: "hf://OFA-Sys/chinese-clip-vit-large-patch14-336px",
        gradient_checkpointing: true,
    },
    Model {
        architecture: "ViT-H-14",
        file: "vit-h-14",
        image: "hf://laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        text: "hf://hfl/chinese-roberta-wwm-ext-large",
        pretrained: "hf://OFA-Sys/chinese-clip-vit-huge-patch14",
        gradient_checkpointing: true,
    },
];
