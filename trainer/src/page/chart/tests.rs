use super::*;

fn curve(points: &[(f64, f64)]) -> Curve {
    Curve {
        points: points.to_vec(),
        ..Curve::default()
    }
}

fn draw(curves: &[Curve], stages: &[(&str, f64)]) -> Option<Chart> {
    let stages: Vec<_> = stages
        .iter()
        .map(|(name, end)| ((*name).into(), *end))
        .collect();

    Chart::draw_curves("Loss", "nats", curves, &stages)
}

#[test]
fn labels_are_as_exact_as_the_marks_are_close() {
    for (value, step, said) in [
        (0.0, 0.5, "0"),
        (2.5, 0.5, "2.5"),
        (3.0, 1.0, "3"),
        (2e-4, 1e-4, "2e-4"),
        (1.24e-4, 1e-5, "1.2e-4"),
        (11_900.0, 1000.0, "11.9k"),
        (300.0, 100.0, "300"),
        (2_000_000.0, 1e6, "2M"),
        (1e-17, 0.1, "0"),
    ] {
        assert_eq!(
            format_value(value, step),
            said,
            "{value} in steps of {step}"
        );
    }
}

#[test]
fn an_axis_ends_on_round_numbers_around_what_it_shows() {
    for (low, high, labels) in [
        (2.85, 5.56, vec!["2", "3", "4", "5", "6"]),
        (0.0, 11.3, vec!["0", "5", "10", "15"]),
        (7.0, 7.0, vec!["5", "10"]),
        (0.0, 0.0, vec!["0", "0.5"]),
        (-3.0, 2.0, vec!["-4", "-2", "0", "2"]),
    ] {
        let marks = ChartAxis::from_value_range(low, high, (0.0, 1.0)).tick_labels();
        let found: Vec<_> = marks.into_iter().map(|mark| mark.label).collect();
        assert_eq!(found, labels, "{low} to {high}");
    }
}

#[test]
fn a_curve_without_a_number_is_not_drawn() {
    assert!(draw(&[], &[("a", 9.0)]).is_none());
    assert!(draw(&[curve(&[])], &[("a", 9.0)]).is_none());
    assert!(draw(&[curve(&[(1.0, f64::NAN)])], &[("a", 9.0)]).is_none());
}

#[test]
fn everything_lies_inside_the_plot_and_long_curves_are_averaged() {
    let noise = |step: usize| (step as f64, 5.0 + (step as f64).sin());
    let chart = draw(
        &[curve(&(1..9000).map(noise).collect::<Vec<_>>())],
        &[("a", 9000.0)],
    );

    let chart = chart.unwrap();
    let path = chart.lines[0].path.strip_prefix('M').unwrap();
    let points: Vec<(f64, f64)> = (path.split('L'))
        .map(|point| point.split_once(' ').unwrap())
        .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
        .collect();

    assert!(points.len() <= MAX_POINTS, "{}", points.len());
    for (x, y) in points {
        assert!((chart.left..=chart.right).contains(&x), "{x}");
        assert!((chart.top..=chart.bottom).contains(&y), "{y}");
    }
}

#[test]
fn parts_are_divided_and_named_where_there_is_room() {
    let stages = [
        ("align", 500.0),
        ("a-very-long-name", 520.0),
        ("finetune", 1000.0),
    ];

    let chart = draw(&[curve(&[(1.0, 2.0), (999.0, 1.0)])], &stages).unwrap();
    assert_eq!(chart.boundaries.len(), 2);
    let names: Vec<_> = chart
        .stages
        .iter()
        .map(|mark| mark.label.as_str())
        .collect();

    assert_eq!(names, ["align", "finetune"]);
    assert_eq!(chart.summary, "Loss: from 2.00 to 1.00 over steps 1 to 999");
}
