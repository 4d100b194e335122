//! Evaluations on the three retrieval data sets, as the paper's tables score them.

/// One data set: the folder of its training recipes, and the tasks.
pub(crate) struct Scored {
    pub(crate) folder: &'static str,
    title: &'static str,
    /// What is told above the manifest: how the data is made ready, and what comes out.
    note: &'static str,
    tasks: &'static str,
}

pub(crate) const DATA_SETS: [Scored; 3] = [
    Scored {
        folder: "muge",
        title: "MUGE",
        note: "# The test split has no public labels: submit tasks/test/text_to_image.jsonl from the artifacts.\n",
        tasks: "    - name: valid\n      retrieval:\n        dataset: s3://data/MUGE/valid\n        benchmark: MugeValid\n        \
                calibration: {precisionPercent: 90}\n    - name: test\n      retrieval:\n        dataset: s3://data/MUGE/test\n",
    },
    Scored {
        folder: "flickr30k-cn",
        title: "Flickr30K-CN",
        note: "",
        tasks: "    - name: test\n      retrieval:\n        dataset: s3://data/Flickr30k-CN/test\n        benchmark: Flickr30kCnTest\n",
    },
    Scored {
        folder: "coco-cn",
        title: "COCO-CN",
        note: "",
        tasks: "    - name: test\n      retrieval:\n        dataset: s3://data/COCO-CN/test\n        benchmark: CocoCnTest\n",
    },
];

pub(crate) fn recipe(data: &Scored) -> String {
    let Scored {
        folder,
        title,
        note,
        tasks,
    } = data;

    format!(
        "# Evaluates the published ViT-B-16 on {title}. Replace the s3:// URIs by your own, and the checkpoint by another model or\n\
         # `{{trainingName: …}}`. The data sets are those of OFA-Sys/chinese-clip-eval,\n\
         # uploaded unchanged as TSV and JSONL or as LMDB; docs/retrieval.md describes faster shards.\n\
         {note}\
         apiVersion: cnclip.dev/v1alpha1\n\
         kind: CnClipEvaluation\n\
         metadata:\n  name: {folder}\n\
         spec:\n  checkpoint: {{uri: \"hf://OFA-Sys/chinese-clip-vit-base-patch16\"}}\n  \
         tasks:\n{tasks}  \
         artifacts: {{uri: \"s3://runs/{folder}-scores/\", credentials: {{secretName: s3}}}}\n"
    )
}
