use std::sync::Mutex;

use super::*;
use cnclip_compute::collective::GradientReducer;
use cnclip_compute::tensor::TensorViewMut;

/// Numbers whose sums round.
fn numbers(rank: usize, length: usize) -> Vec<f32> {
    (0..length)
        .map(|i| ((i * 7 + rank * 31) % 101) as f32 / 7.0)
        .collect()
}

const LENGTHS: [usize; 8] = [0, 1, 2, 3, 5, 97, 4099, 200_003];

#[test]
fn sums_are_right_and_the_same_bits_everywhere_whatever_the_length() {
    for count in 1..=5 {
        let found = each(count, |world| {
            LENGTHS.map(|length| {
                let mut values = numbers(world.rank(), length);
                world.all_reduce_sum(&mut values);
                let mut wide: Vec<_> = numbers(world.rank(), length)
                    .iter()
                    .map(|&x| f64::from(x))
                    .collect();

                world.all_reduce_sum(&mut wide);
                (values, wide)
            })
        })
        .unwrap();

        for (at, length) in LENGTHS.into_iter().enumerate() {
            let all: Vec<_> = (0..count).map(|rank| numbers(rank, length)).collect();
            let (narrow, wide) = &found[0][at];
            for (place, sum) in wide.iter().enumerate() {
                let right: f64 = all.iter().map(|values| f64::from(values[place])).sum();
                assert!(
                    (sum - right).abs() < 1e-9,
                    "{count} ranks, {length}: {sum}, not {right}"
                );

                assert!((f64::from(narrow[place]) - right).abs() < 1e-4);
            }

            assert!(
                found.iter().all(|other| other[at] == found[0][at]),
                "{count} ranks, {length}"
            );
        }
    }
}

#[test]
fn every_rank_gets_what_each_brings_however_much_that_is() {
    for count in 1..=4 {
        let found = each(count, |world| {
            let mut equal = vec![0f32; 3 * count];
            equal[world.rank_range(3 * count)].fill(world.rank() as f32);
            world.all_gather(&mut equal);
            let own = numbers(world.rank(), LENGTHS[world.rank() + 4]);
            let heard = world.broadcast(&[7 + world.rank() as u64]).unwrap();

            (equal, world.all_gather_varlen(&own).unwrap(), heard)
        })
        .unwrap();

        for (equal, any, heard) in found {
            assert!(
                equal
                    .iter()
                    .enumerate()
                    .all(|(at, value)| *value == (at / 3) as f32)
            );

            let right: Vec<_> = (0..count)
                .map(|rank| numbers(rank, LENGTHS[rank + 4]))
                .collect();

            assert_eq!(any, right);
            assert_eq!(heard, [7]);
        }
    }
}

#[test]
fn gradients_are_summed_wherever_they_are_handed_in_and_left_alone_elsewhere() {
    let length = 2_500_000;
    let found = each(3, |world| {
        let mut buckets = world.gradient_buckets().unwrap();
        let mut all = Vec::new();
        for _ in 0..2 {
            let mut numbers = numbers(world.rank(), length);
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
fn a_rank_that_ends_badly_ends_all_and_its_own_word_is_the_one_that_counts() {
    for panics in [false, true] {
        let told = Mutex::new(Vec::new());
        let job = |world: Arc<Communicator>| {
            world.set_step(4);
            match world.rank() {
                1 if panics => panic!("of no use"),
                1 => Err(Error::Config("bad picture".into())),
                _ => {
                    let heard = world.barrier().and(world.barrier());
                    told.lock()
                        .unwrap()
                        .push(heard.as_ref().unwrap_err().to_string());

                    heard
                }
            }
        };

        let ended = LocalRanks::single_process(3)
            .run_ranks(job, job)
            .unwrap_err();
        let own = if panics {
            "rank 1 panicked"
        } else {
            "bad picture"
        };

        assert!(
            !matches!(ended, Error::Lost(_)) && ended.to_string().contains(own),
            "{ended}"
        );

        let told = told.into_inner().unwrap();
        assert_eq!(told.len(), 2);
        let expected = format!("worker 0 (rank 1) ended in step 4: {own}");
        assert!(
            told.iter().all(|told| told.starts_with(&expected)),
            "{told:?}"
        );
    }
}

#[test]
fn ranks_that_have_something_else_are_named() {
    let found = each(3, |world| {
        world.ensure_equal_across_ranks("data set", u64::from(world.rank() == 2))
    })
    .unwrap();

    for told in found {
        let told = told.unwrap_err().to_string();
        assert!(
            told.contains("rank 2 (worker 0) has another data set than rank 0"),
            "{told}"
        );
    }

    each(3, |world| {
        world.ensure_equal_across_ranks("data set", 5).unwrap()
    })
    .unwrap();
}
