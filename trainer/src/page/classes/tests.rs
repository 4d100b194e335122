use cnclip_crds::tasks::{Metric, TaskResult, TaskScores, TemplatesReport, ZeroShotScores};

use super::*;
use crate::page::{PageInput, TaskDetails, TaskSection, render_page};

const RED: &[u8] = include_bytes!("../../../tests/golden/images/odd/png_gray2.png");

/// Classes whose images are each of the first class, or of its own, as the confusion says.
fn scored(confusion: Vec<Vec<u64>>) -> ScoredZeroShot {
    let count = confusion.len();
    let number = |class: usize, other: usize, image: u64| ClassifiedImage {
        file: format!("test/{class}/{other}-{image}.png"),
        class,
        labels: vec![class],
        probabilities: (0..count)
            .map(|at| if at == other { 0.75 } else { 0.0 })
            .collect(),
    };

    let row = |(class, row): (usize, &Vec<u64>)| {
        let taken = row.iter().enumerate();
        taken
            .flat_map(move |(other, &images)| (0..images).map(move |n| number(class, other, n)))
            .collect::<Vec<_>>()
    };

    let images: Vec<_> = confusion.iter().enumerate().flat_map(row).collect();
    let scores = ZeroShotScores {
        classes: count as i64,
        headline: Metric::Accuracy,
        accuracy: 50.0,
        top5: 100.0,
        mean_per_class: 50.0,
        roc_auc: None,
        mean_average_precision: 50.0,
        templates: TemplatesReport::default(),
    };

    let result = TaskResult {
        name: "task".into(),
        dataset: "s3://data/".into(),
        digest: String::new(),
        images: images.len() as i64,
        seconds: 1.0,
        measured: TaskScores::ZeroShot(scores),
    };

    let classes = (0..count).map(|class| format!("类{class}")).collect();
    ScoredZeroShot {
        result,
        classes,
        confusion,
        images,
    }
}

fn shown(scored: &ScoredZeroShot) -> ClassDetails {
    let store = Store::in_memory();
    for image in &scored.images {
        store.put(&image.file, RED.into()).unwrap();
    }

    ClassDetails::from_scored(scored, &store).unwrap()
}

#[test]
fn few_classes_are_all_shown_best_first_and_those_without_pictures_last() {
    let classes = shown(&scored(vec![vec![1, 3, 0], vec![0, 0, 0], vec![0, 1, 9]]));
    let best: Vec<_> = classes
        .best
        .iter()
        .map(|class| (class.name.as_str(), class.right))
        .collect();

    assert_eq!(
        best,
        [("类2", Some(90.0)), ("类0", Some(25.0)), ("类1", None)]
    );

    assert!(classes.between.is_empty() && classes.worst.is_empty());
    assert!(classes.matrix.is_some());
}

#[test]
fn of_many_classes_both_ends_are_shown_and_the_pairs_instead_of_a_matrix() {
    let row = |class: u64| {
        (0..60)
            .map(|at| {
                if at == class {
                    class
                } else {
                    u64::from(at == 0)
                }
            })
            .collect()
    };

    let classes = shown(&scored((0..60).map(row).collect()));
    assert_eq!(
        (
            classes.best.len(),
            classes.between.len(),
            classes.worst.len()
        ),
        (MAX_CLASSES_PER_END, 42, MAX_CLASSES_PER_END)
    );

    assert_eq!(classes.best[0].name, "类59");
    assert_eq!(
        classes.worst[MAX_CLASSES_PER_END - 1].name,
        "类0",
        "it has no image"
    );
    assert!(classes.matrix.is_none());
    assert_eq!(classes.pairs.len(), MAX_CONFUSED_PAIRS);
}

#[test]
fn pairs_are_in_the_order_of_how_often_they_are_mistaken() {
    let classes = shown(&scored(vec![vec![4, 4, 2], vec![5, 3, 0], vec![0, 2, 0]]));
    let pair = |pair: &ConfusedPair| {
        (
            pair.class.clone(),
            pair.taken_for.clone(),
            pair.images,
            pair.share,
        )
    };

    let pairs: Vec<_> = classes.pairs.iter().map(pair).collect();
    assert_eq!(pairs[0], ("类1".into(), "类0".into(), 5, 62.5));
    assert_eq!(pairs[1], ("类0".into(), "类1".into(), 4, 40.0));
    assert_eq!(
        pairs[2],
        ("类2".into(), "类1".into(), 2, 100.0),
        "of as many, the larger share"
    );

    assert_eq!(pairs.len(), 4);
}

#[test]
fn mistaken_pictures_are_the_surest_and_first_one_of_each_pair() {
    let mut scored = scored(vec![vec![3, 4], vec![1, 2]]);
    scored.images[3].probabilities = vec![0.1, 0.9];
    let classes = shown(&scored);
    let found = classes
        .mistaken
        .iter()
        .map(|wrong| (wrong.class.as_str(), wrong.probability));

    let found: Vec<_> = found.collect();
    assert_eq!(
        found,
        [
            ("类0", 90.0),
            ("类1", 75.0),
            ("类0", 75.0),
            ("类0", 75.0),
            ("类0", 75.0)
        ]
    );

    assert!(
        classes
            .mistaken
            .iter()
            .all(|wrong| wrong.class != wrong.taken_for)
    );

    assert!(
        classes
            .mistaken
            .iter()
            .all(|wrong| wrong.thumbnail.is_some())
    );
}

#[test]
fn of_equally_probable_classes_the_first_is_meant_as_in_the_scores() {
    let mut scored = scored(vec![vec![1, 0], vec![0, 1]]);
    for image in &mut scored.images {
        image.probabilities = vec![0.5, 0.5];
    }

    let mistaken = shown(&scored).mistaken;
    assert_eq!(mistaken.len(), 1);
    assert_eq!(
        (mistaken[0].class.as_str(), mistaken[0].taken_for.as_str()),
        ("类1", "类0")
    );
}

#[test]
fn a_picture_taken_for_another_of_its_classes_is_not_mistaken() {
    let mut scored = scored(vec![vec![0, 1], vec![1, 0]]);
    scored.images[0].labels = vec![0, 1];
    let mistaken = shown(&scored).mistaken;
    assert_eq!(mistaken.len(), 1);
    assert_eq!(mistaken[0].class, "类1");
}

#[test]
fn a_classification_is_shown_with_what_its_names_were_put_into() {
    let mut scored = scored(vec![vec![3, 1], vec![0, 4]]);
    scored.classes[1] = "<b>类".into();
    let TaskScores::ZeroShot(scores) = &mut scored.result.measured else {
        panic!("no other")
    };

    scores.templates.from = "own & more".into();
    scores.templates.count = 1183;
    let shown = Some(TaskDetails::ZeroShot(shown(&scored)));
    let result = scored.result;
    let tasks = vec![TaskSection {
        result,
        shown,
        public: None,
    }];

    let html = render_page(&PageInput {
        tasks,
        ..PageInput::default()
    });

    assert!(
        html.contains("1,183 of each (own &amp; more). This data set"),
        "{html}"
    );

    assert!(
        html.contains("&lt;b&gt;类") && !html.contains("<b>类"),
        "{html}"
    );
}
