use cnclip_crds::tasks::{
    Metric, RecallAtK, RetrievalRecalls, SimilarityThreshold, TaskScores, TemplatesReport,
    ZeroShotScores,
};

use super::*;
use crate::evaluate::retrieval::first_hit;
use crate::evaluate::tests::{golden, scored, unlabeled};
use crate::progress::history::HistoryPoint;
use cnclip_data::image::decode::decode_image;
use cnclip_data::store::Store;

fn stage(name: &str, steps: i64) -> StageCurves {
    let recall = RecallAtK {
        r1: 1.0,
        r5: 2.0,
        r10: 3.0,
        mean_recall: 2.0,
    };

    let recalls = RetrievalRecalls {
        text_to_image: recall,
        image_to_text: recall,
    };

    let point = |step: i64| HistoryPoint {
        step,
        reported_at: 1_800_000_000 + step,
        samples_seen: 256 * step,
        loss: Some(5.5 / step as f64),
        recalls: (step % 50 == 0).then_some(recalls),
        ..HistoryPoint::default()
    };

    StageCurves {
        name: name.into(),
        points: (1..=steps / 10).map(|i| point(i * 10)).collect(),
    }
}

fn input() -> PageInput {
    let dataset = golden(&Store::in_memory());
    let scored = scored(&dataset);
    let examples = RetrievalExamples::from_scored(&scored, &dataset).unwrap();
    PageInput {
        title: "猫 <run> & \"co\"".into(),
        model: "ViT-B-16".into(),
        written_at: 1_800_000_000,
        stages: vec![
            stage("<align>", 400),
            stage("pretrain", 100),
            stage("finetune", 300),
        ],
        architecture: Some(Architecture::VitB16),
        tasks: vec![TaskSection {
            result: scored.result,
            shown: Some(TaskDetails::Retrieval(examples)),
            public: Some(PublicDataset::Retrieval(Benchmark::Flickr30kCnTest)),
        }],
        provenance: vec![("Checkpoint".into(), "s3://runs/<b>".into())],
        configuration: "{\"a\": \"</pre><script>alert(1)</script>\"}".into(),
    }
}

/// The values of an attribute, as they are written.
fn attributes<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
    let open = format!(" {name}=\"");
    let rest = |part: &'a str| part.split_once('"').unwrap().0;
    html.split(open.as_str()).skip(1).map(rest).collect()
}

#[test]
fn the_page_needs_nothing_but_itself() {
    let html = render_page(&input());
    assert!(html.starts_with("<!doctype html>"), "{}", &html[..80]);
    for reference in ["<script", "<link", "@import", "url(", "srcset", "<iframe"] {
        assert!(!html.contains(reference), "{reference}");
    }

    let sources = attributes(&html, "src");
    assert!(!sources.is_empty());
    assert!(
        sources
            .iter()
            .all(|source| source.starts_with("data:image/")),
        "{sources:?}"
    );

    assert!(attributes(&html, "href").is_empty());
}

#[test]
fn every_picture_on_the_page_decodes() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let html = render_page(&input());
    for source in attributes(&html, "src") {
        let file = STANDARD
            .decode(source.split_once(";base64,").unwrap().1)
            .unwrap();
        decode_image(&file).unwrap();
    }
}

#[test]
fn what_users_wrote_is_shown_and_never_obeyed() {
    let html = render_page(&input());
    for (written, shown) in [
        ("<run>", "猫 &lt;run&gt; &amp; "),
        ("<align>", "&lt;align&gt;"),
        ("<b>", "s3:&#x2f;&#x2f;runs&#x2f;&lt;b&gt;"),
        ("<script>", "&lt;script&gt;alert"),
    ] {
        assert!(!html.contains(written), "{written}");
        assert!(html.contains(shown), "{shown}");
    }
}

#[test]
fn a_page_without_training_or_without_evaluation_says_only_what_is_known() {
    for (stages, tasks, said, unsaid) in [
        (
            input().stages,
            vec![],
            "<h2>Training</h2>",
            "<h2>Recall</h2>",
        ),
        (
            vec![],
            input().tasks,
            "<h2>Recall</h2>",
            "<h2>Training</h2>",
        ),
        (vec![], vec![], "<h1>", "<section>"),
    ] {
        let title = "run".into();
        let html = render_page(&PageInput {
            title,
            stages,
            tasks,
            ..PageInput::default()
        });
        assert!(html.contains(said), "{said}");
        assert!(!html.contains(unsaid), "{unsaid}");
    }
}

#[test]
fn stages_follow_one_another_and_are_summed() {
    let html = render_page(&input());
    assert!(html.contains("<dd>204,800</dd>"), "800 steps of 256");
    assert!(
        html.contains("<dd>12 min 50 s</dd>"),
        "390 s, 90 s and 290 s"
    );

    assert!(
        html.contains("Loss: from 0.550 to 0.018 over steps 10 to 800"),
        "one curve"
    );
}

#[test]
fn examples_show_what_was_found_and_the_worst_are_misses() {
    let dataset = golden(&Store::in_memory());
    let scored = scored(&dataset);
    let examples = RetrievalExamples::from_scored(&scored, &dataset).unwrap();
    assert!(!examples.usual.is_empty());

    for example in &examples.usual {
        let text = scored
            .corpus
            .texts
            .iter()
            .position(|text| text.text == example.text)
            .unwrap();

        let found = &scored.retrieval.text_to_image.nearest[text][..5];
        let hit = first_hit(found, &scored.corpus.relevant[text]);
        assert_eq!(example.answers.iter().position(|answer| answer.right), hit);
        assert!(
            example
                .answers
                .iter()
                .all(|answer| answer.thumbnail.is_some())
        );
    }

    for example in &examples.worst {
        assert!(example.answers.iter().all(|answer| !answer.right));
        assert!(example.wanted.as_ref().unwrap().right);
        assert!(example.place.unwrap() > 10);
    }
}

#[test]
fn a_task_without_labels_says_so_and_shows_what_it_finds() {
    let dataset = unlabeled(&Store::in_memory());
    let scored = scored(&dataset);
    let examples = RetrievalExamples::from_scored(&scored, &dataset).unwrap();
    assert_eq!((examples.usual.len(), examples.worst.len()), (3, 0));
    let shown = Some(TaskDetails::Retrieval(examples));
    let tasks = vec![TaskSection {
        result: scored.result,
        shown,
        public: None,
    }];

    let html = render_page(&PageInput {
        tasks,
        ..PageInput::default()
    });

    assert!(
        html.contains("No labels: 3 texts were searched for among 12 images"),
        "{html}"
    );

    assert!(
        html.contains("most similar of 12 images.</p>"),
        "no frame is promised"
    );

    assert!(!html.contains("text→image"), "no recall is shown");
}

#[test]
fn numbers_are_grouped_and_times_are_as_coarse_as_they_are_long() {
    for (value, said) in [
        (0, "0"),
        (999, "999"),
        (1000, "1,000"),
        (12_345_678, "12,345,678"),
    ] {
        assert_eq!(format_count(value), said);
    }

    for (seconds, said) in [
        (59, "59 s"),
        (60, "1 min 0 s"),
        (3661, "1 h 1 min"),
        (200_000, "2 d 7 h"),
    ] {
        assert_eq!(format_duration(seconds), said);
    }
}

#[test]
fn published_numbers_stand_beside_those_of_the_same_model_and_data_set_only() {
    let html = render_page(&input());
    assert_eq!(
        html.matches("<tr class=\"published\">").count(),
        4,
        "two of each direction"
    );

    assert!(html.contains("arXiv:2211.01335, Table 2"));
    assert!(html.contains("Published for 1,000 images and 5,000 texts; here there are 12 and 15."));
    for input in [
        PageInput {
            architecture: None,
            ..input()
        },
        PageInput {
            tasks: vec![TaskSection {
                public: None,
                ..input().tasks.remove(0)
            }],
            ..input()
        },
    ] {
        let html = render_page(&input);
        assert!(!html.contains("<tr class=\"published\">"));
        assert!(!html.contains("<h2>Published numbers</h2>"));
        assert!(html.contains("<h2>Recall</h2>"));
    }
}

#[test]
fn many_tasks_begin_with_a_list_of_all() {
    let scored = scored(&unlabeled(&Store::in_memory()));
    let mut tasks = input().tasks;
    tasks.push(TaskSection {
        result: TaskResult {
            name: "muge-test".into(),
            ..scored.result
        },
        shown: Some(TaskDetails::Retrieval(RetrievalExamples::default())),
        public: None,
    });

    assert!(
        !render_page(&input()).contains("<h2>Tasks</h2>"),
        "one task needs no list"
    );

    let html = render_page(&PageInput { tasks, ..input() });
    let list = html
        .split_once("<h2>Tasks</h2>")
        .unwrap()
        .1
        .split_once("</table>")
        .unwrap()
        .0;

    assert!(
        list.contains("golden<small>R@1 text→image</small>"),
        "{list}"
    );

    assert!(list.contains("muge-test<small>retrieval</small>"), "{list}");
    assert_eq!(
        list.matches(">–</td>").count(),
        3,
        "no score and nothing published: {list}"
    );
}

#[test]
fn an_answer_that_is_not_similar_enough_is_no_match() {
    let mut input = input();
    let Some(TaskDetails::Retrieval(examples)) = &input.tasks[0].shown else {
        panic!("a retrieval")
    };

    let all = examples.usual.len();
    for (similarity, precision, unmatched) in [(2.0, 60.0, all), (-2.0, 60.0, 0), (2.0, 40.0, 0)] {
        let TaskScores::Retrieval(scores) = &mut input.tasks[0].result.measured else {
            panic!("a retrieval")
        };

        scores.threshold = Some(SimilarityThreshold {
            wanted: 50.0,
            similarity,
            precision,
            coverage: 70.0,
        });

        let html = render_page(&input);
        assert_eq!(html.matches("<small>no match</small>").count(), unmatched);
        assert!(html.contains("<h2>What is a match</h2>"));
        assert_eq!(
            html.contains("<td>none<small>best 2.000</small>"),
            precision < 50.0
        );
    }
}

#[test]
fn a_difference_has_a_sign() {
    for (value, said) in [
        (6.34, "+6.3"),
        (-1.26, "−1.3"),
        (0.04, "±0.0"),
        (-0.04, "±0.0"),
    ] {
        assert_eq!(format_difference(value), said);
    }
}

/// A classification that nothing is shown of but its scores.
fn scores_only() -> TaskSection {
    let scores = ZeroShotScores {
        classes: 2,
        headline: Metric::Top5,
        accuracy: 50.0,
        top5: 75.04,
        mean_per_class: 49.0,
        roc_auc: None,
        mean_average_precision: 51.0,
        templates: TemplatesReport::default(),
    };

    TaskSection {
        result: TaskResult {
            measured: TaskScores::ZeroShot(scores),
            ..input().tasks.remove(0).result
        },
        shown: None,
        public: None,
    }
}

#[test]
fn a_task_without_a_section_of_its_own_lists_its_scores() {
    let html = render_page(&PageInput {
        tasks: vec![scores_only()],
        ..PageInput::default()
    });

    let list = html.split_once("<h2>Scores <small>golden</small></h2>");
    let list = list.unwrap().1.split_once("</section>").unwrap().0;
    let headline = "<div class=headline><dt>top-5 accuracy</dt><dd>75.0<small>%</small></dd></div>";
    assert!(list.contains(headline), "{list}");
    assert_eq!(list.matches("<dt>").count(), 4, "{list}");

    assert!(!render_page(&input()).contains("<h2>Scores"));
}

#[test]
fn a_single_task_has_its_main_scores_in_the_header() {
    let header = |tasks| {
        let html = render_page(&PageInput {
            tasks,
            ..PageInput::default()
        });

        html.split_once("</header>").unwrap().0.to_owned()
    };

    let mut retrieval = input().tasks.remove(0);
    let TaskScores::Retrieval(scores) = &mut retrieval.result.measured else {
        panic!("a retrieval")
    };

    let recall = |r1, r10| RecallAtK {
        r1,
        r10,
        ..RecallAtK::default()
    };

    scores.recalls = Some(RetrievalRecalls {
        text_to_image: recall(25.0, 75.0),
        image_to_text: recall(30.0, 80.0),
    });

    let shown = header(vec![retrieval]);
    let tiles = concat!(
        "  <dl class=\"tiles\">\n",
        "    <div><dt>R@1 text→image</dt><dd>25.0<small>%</small></dd></div>\n",
        "    <div><dt>R@10 text→image</dt><dd>75.0<small>%</small></dd></div>\n",
        "    <div><dt>R@10 image→text</dt><dd>80.0<small>%</small></dd></div>\n",
        "  </dl>\n",
    );

    assert!(shown.contains(tiles), "{shown}");
    assert!(header(vec![scores_only()]).contains("<dt>accuracy</dt>"));
    assert!(!header(vec![scores_only(), scores_only()]).contains("class=\"tiles\""));
}
