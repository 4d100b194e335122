use super::*;

/// When a leader stops that last renewed at 0 and whose requests take these times to fail; the last time is
/// that of all further requests.
fn stops_after(failure_times: &[Duration]) -> Duration {
    let renewed_at = Instant::now();
    let term = LeaseTerm { renewed_at };
    let mut now = renewed_at;
    let mut attempts = 0;

    while let Some(attempt) = term.next_attempt(now) {
        let request = failure_times[attempts.min(failure_times.len() - 1)];
        now = attempt.abandoned_at.min(attempt.begins_at + request);
        attempts += 1;
    }

    assert!(attempts >= 2, "a single failed request ends no term");
    now - renewed_at
}

#[test]
fn a_leader_stops_by_the_renew_deadline_whatever_its_requests_take() {
    let tenths: Vec<_> = (0..=40)
        .map(|tenths| Duration::from_millis(100 * tenths))
        .collect();
    let hangs = Duration::from_secs(3600);
    for first in &tenths {
        for second in tenths.iter().chain([&hangs]) {
            let stopped = stops_after(&[*first, *second]);
            assert!(
                stopped <= RENEW_DEADLINE,
                "{first:?}, {second:?}: {stopped:?}"
            );
        }
    }
}

#[test]
fn attempts_begin_a_period_apart_and_end_by_the_deadline() {
    // Seconds since the last renewal: now, begin and end of the next attempt.
    let rows = [
        (0, Some((3, 6))),
        (3, Some((6, 9))),
        (4, Some((7, 10))),
        (6, Some((9, 10))),
        (7, None),
        (30, None),
    ];

    let renewed_at = Instant::now();
    let after = |seconds| renewed_at + Duration::from_secs(seconds);
    for (now, expected) in rows {
        let attempt = LeaseTerm { renewed_at }.next_attempt(after(now));
        let expected = expected.map(|(begin, end)| RenewalAttempt {
            begins_at: after(begin),
            abandoned_at: after(end),
        });

        assert_eq!(attempt, expected, "at {now} s");
    }
}

#[test]
fn the_work_of_a_term_has_time_to_end_before_others_can_acquire_the_lease() {
    let renewed_at = Instant::now();
    let ends_at = LeaseTerm { renewed_at }.ends_at();

    assert!(renewed_at + RENEW_DEADLINE < ends_at);
    assert!(ends_at < renewed_at + LEASE_DURATION);
}
