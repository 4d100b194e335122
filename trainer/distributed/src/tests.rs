use std::sync::{Arc, Mutex};

use cnclip_compute::collective::{Collective, GradientReducer};
use cnclip_compute::tensor::TensorViewMut;

use super::*;

/// Values whose sums round.
fn numbers(rank: usize, length: usize) -> Vec<f32> {
    (0..length)
        .map(|i| ((i * 7 + rank * 31) % 101) as f32 / 7.0)
        .collect()
}

const LENGTHS: [usize; 8] = [0, 1, 2, 3, 5, 97, 4099, 200_003];

#[test]
fn sums_are_right_and_the_same_bits_everywhere_whatever_the_length() {
    for count in 1..=5 {
        let found = run_on_ranks(count, |communicator| {
            LENGTHS.map(|length| {
                let mut values = numbers(communicator.rank(), length);
                communicator.all_reduce_sum(&mut values);
                let mut doubles: Vec<_> = numbers(communicator.rank(), length)
                    .iter()
                    .map(|&x| f64::from(x))
                    .collect();

                communicator.all_reduce_sum(&mut doubles);
                (values, doubles)
            })
        })
        .unwrap();

        for (index, length) in LENGTHS.into_iter().enumerate() {
            let all: Vec<_> = (0..count).map(|rank| numbers(rank, length)).collect();
            let (singles, doubles) = &found[0][index];
            for (place, sum) in doubles.iter().enumerate() {
                let right: f64 = all.iter().map(|values| f64::from(values[place])).sum();
                assert!(
                    (sum - right).abs() < 1e-9,
                    "{count} ranks, {length}: {sum}, not {right}"
                );

                assert!((f64::from(singles[place]) - right).abs() < 1e-4);
            }

            assert!(
                found.iter().all(|other| other[index] == found[0][index]),
                "{count} ranks, {length}"
            );
        }
    }
}

#[test]
fn every_rank_gets_what_each_brings_however_much_that_is() {
    for count in 1..=4 {
        let found = run_on_ranks(count, |communicator| {
            let mut equal = vec![0f32; 3 * count];
            equal[communicator.rank_range(3 * count)].fill(communicator.rank() as f32);
            communicator.all_gather(&mut equal);
            let local = numbers(communicator.rank(), LENGTHS[communicator.rank() + 4]);
            let broadcast = communicator
                .broadcast(&[7 + communicator.rank() as u64])
                .unwrap();

            (
                equal,
                communicator.all_gather_varlen(&local).unwrap(),
                broadcast,
            )
        })
        .unwrap();

        for (equal, varlen, broadcast) in found {
            assert!(
                equal
                    .iter()
                    .enumerate()
                    .all(|(index, value)| *value == (index / 3) as f32)
            );

            let right: Vec<_> = (0..count)
                .map(|rank| numbers(rank, LENGTHS[rank + 4]))
                .collect();

            assert_eq!(varlen, right);
            assert_eq!(broadcast, [7]);
        }
    }
}

#[test]
fn every_rank_gets_the_values_of_rank_zero_whatever_the_length() {
    for count in 1..=3 {
        let found = run_on_ranks(count, |communicator| {
            LENGTHS.map(|length| {
                let mut values = numbers(communicator.rank(), length);
                communicator.broadcast_in_place(&mut values).unwrap();
                let mut tensor = numbers(communicator.rank(), length);
                let view = TensorViewMut::Host(&mut tensor);
                communicator.broadcast_tensor(view).unwrap();

                // Of another length on each rank: the others' is of no account.
                let local = numbers(communicator.rank(), length + communicator.rank());
                (values, tensor, communicator.broadcast(&local).unwrap())
            })
        })
        .unwrap();

        for (index, length) in LENGTHS.into_iter().enumerate() {
            let right = numbers(0, length);
            for (rank, found) in found.iter().enumerate() {
                let (in_place, tensor, received) = &found[index];
                let same = [in_place, tensor, received].map(|values| *values == right);
                assert_eq!(same, [true; 3], "{length} values on rank {rank} of {count}");
            }
        }
    }
}

#[test]
fn a_rank_that_dies_during_a_broadcast_ends_all_with_its_error() {
    // More than all links together hold, so that the others are in the middle of it.
    const LENGTH: usize = 8 << 20;
    for failed in 0..3 {
        let errors = Mutex::new(Vec::new());
        let job = |communicator: Arc<Communicator>| {
            communicator.set_step(4);
            if communicator.rank() == failed {
                // The others send or wait by now.
                std::thread::sleep(std::time::Duration::from_millis(200));
                return Err(Error::Config("disk full".into()));
            }

            let ended = communicator.broadcast_in_place(&mut vec![0f32; LENGTH]);
            // Rank 2 alone may lack nothing: what was sent to it came before the failure.
            let ended = ended.and_then(|()| communicator.barrier());
            let message = ended.as_ref().unwrap_err().to_string();
            errors.lock().unwrap().push(message);
            ended
        };

        let ended = LocalRanks::single_process(3).run_ranks(job, job);
        let ended = ended.unwrap_err().to_string();
        assert!(ended.contains("disk full"), "{ended}");
        let errors = errors.into_inner().unwrap();
        let right = format!("worker 0 (rank {failed}) failed in step 4: disk full");
        assert_eq!(errors, [right.clone(), right]);
    }
}

#[test]
fn gradients_are_summed_wherever_they_are_handed_in_and_left_alone_elsewhere() {
    let length = 2_500_000;
    let found = run_on_ranks(3, |communicator| {
        let mut buckets = communicator.gradient_buckets().unwrap();
        let mut all = Vec::new();
        for _ in 0..2 {
            let mut numbers = numbers(communicator.rank(), length);
            let mut values = TensorViewMut::Host(&mut numbers);
            for range in [length - 7..length, 10..length - 7, 4..9] {
                buckets.reduce_gradients(&mut values, range);
            }

            buckets.finish_all_reduce(&mut values);
            all.push(numbers);
        }

        assert_eq!(all[0], all[1]);
        all.swap_remove(0)
    })
    .unwrap();

    let right = |place: usize| (0..3).map(|rank| numbers(rank, length)[place]).sum::<f32>();
    for place in [4, 8, 10, 1 << 20, length - 8, length - 7, length - 1] {
        assert!((found[0][place] - right(place)).abs() < 1e-4, "{place}");
    }

    assert!(found.iter().all(|values| values[10..] == found[0][10..]));
    assert_eq!(
        [found[1][3], found[1][9]],
        [numbers(1, length)[3], numbers(1, length)[9]]
    );
}

#[test]
fn a_rank_that_fails_ends_all_and_its_own_error_is_returned() {
    for panics in [false, true] {
        let errors = Mutex::new(Vec::new());
        let job = |communicator: Arc<Communicator>| {
            communicator.set_step(4);
            match communicator.rank() {
                1 if panics => panic!("of no use"),
                1 => Err(Error::Config("bad image".into())),
                _ => {
                    let result = communicator.barrier().and(communicator.barrier());
                    errors
                        .lock()
                        .unwrap()
                        .push(result.as_ref().unwrap_err().to_string());

                    result
                }
            }
        };

        let ended = LocalRanks::single_process(3)
            .run_ranks(job, job)
            .unwrap_err();
        let own = if panics {
            "rank 1 panicked"
        } else {
            "bad image"
        };

        assert!(
            !matches!(ended, Error::WorkerLost(_)) && ended.to_string().contains(own),
            "{ended}"
        );

        let errors = errors.into_inner().unwrap();
        assert_eq!(errors.len(), 2);
        let expected = format!("worker 0 (rank 1) failed in step 4: {own}");
        assert!(
            errors.iter().all(|error| error.starts_with(&expected)),
            "{errors:?}"
        );
    }
}

#[test]
fn ranks_with_another_value_are_named() {
    let found = run_on_ranks(3, |communicator| {
        communicator.ensure_equal_across_ranks("data set", u64::from(communicator.rank() == 2))
    })
    .unwrap();

    for result in found {
        let error = result.unwrap_err().to_string();
        assert!(
            error.contains("rank 2 (worker 0) has another data set than rank 0"),
            "{error}"
        );
    }

    run_on_ranks(3, |communicator| {
        communicator
            .ensure_equal_across_ranks("data set", 5)
            .unwrap()
    })
    .unwrap();
}
