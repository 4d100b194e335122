//! Memory that a model reserves, counted by the allocator: in a process of its own, because other tests would be
//! counted too.
#![cfg(test)]

#[path = "support/planned.rs"]
mod planned;

use std::io::Write;
use std::sync::Mutex;

use cnclip::error::Error;
use cnclip_compute::sync::lock_ignoring_poison;
use cnclip_compute::tensor::Memory;
use cnclip_crds::model::{Architecture, ImageTower, ModelConfig, TextTower, VitConfig};
use cnclip_data::image::decode::decode_image;
use cnclip_data::store::{ObjectWriter, Store};
use cnclip_distributed::run_on_ranks;
use cnclip_nn::memory::{BatchPlan, HostInputs, MemoryEstimate, MemoryInputs};
use cnclip_nn::model::clip::{BatchCapacity, Clip};
use cnclip_nn::model::teacher::Teacher;
use peak_alloc::PeakAlloc;
use planned::{allocate_training_state, assert_near_plan, shrink_preset, train_config};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// One test at a time, because others would be counted too.
static COUNTING: Mutex<()> = Mutex::new(());

fn model(layers: i32) -> ModelConfig {
    ModelConfig {
        embed_dim: 32,
        image: ImageTower {
            resolution: 64,
            vit: Some(VitConfig {
                layers,
                width: 64,
                patch_size: 16,
                head_width: 16,
            }),
            resnet: None,
        },
        text: TextTower {
            vocab_size: 50,
            layers,
            width: 64,
            heads: 4,
            intermediate: 256,
            positions: 20,
            hidden_dropout_percent: 10,
            attention_dropout_percent: 10,
        },
    }
}

/// Bytes that a model takes for each sample of its batch.
fn bytes_per_sample(declare: impl Fn(BatchCapacity) -> usize) -> usize {
    (declare(BatchCapacity {
        batch: 40,
        context: 20,
    }) - declare(BatchCapacity {
        batch: 20,
        context: 20,
    })) / 20
}

#[test]
fn a_layer_that_recomputes_keeps_little_more_than_its_input() {
    let _alone = lock_ignoring_poison(&COUNTING);
    let bytes_per_layer = |declare: fn(&ModelConfig, BatchCapacity) -> _| {
        let bytes_of = |layers| {
            bytes_per_sample(|capacity| {
                let before = MEMORY.current_usage();
                let model: (Clip, _) = declare(&model(layers), capacity);
                let reserved = MEMORY.current_usage() - before;
                drop(model);

                reserved
            })
        };

        (bytes_of(12) - bytes_of(4)) / 8
    };

    let inputs = (17 + 20) * 64 * size_of::<f32>();
    let kept = bytes_per_layer(Clip::new);
    let recomputed = bytes_per_layer(Clip::with_recompute);
    assert_eq!(recomputed, inputs);
    assert!(kept > 15 * recomputed, "{kept} bytes, and {recomputed}");
}

/// Bytes that a value reserves, as the allocator counts them.
fn reserved_bytes<T>(allocate: impl FnOnce() -> T) -> u64 {
    let before = MEMORY.current_usage();
    let value = allocate();
    let reserved = MEMORY.current_usage() - before;
    drop(value);

    reserved as u64
}

#[test]
fn the_estimate_is_what_is_reserved() {
    let _alone = lock_ignoring_poison(&COUNTING);
    use Architecture::{Rn50, VitB16, VitH14, VitL14, VitL14At336};
    for architecture in [Rn50, VitB16, VitL14, VitL14At336, VitH14] {
        let config = train_config(&shrink_preset(architecture));
        let model = &config.model;
        let threads = rayon::current_num_threads();
        let inputs = MemoryInputs {
            config: &config,
            local_batch_size: 24,
            shard_bytes: 0,
            teacher: None,
            shuffle_window: 1 << 30,
            threads,
            device: None,
            host: HostInputs::default(),
        };

        for recompute in [false, true] {
            let plan = BatchPlan {
                micro_batch: 12,
                recompute,
            };

            let reserved = reserved_bytes(|| allocate_training_state(&Memory::Host, &config, plan));
            let estimate = inputs.estimate_memory(plan);
            let not_reserved = estimate.batches + estimate.checkpoint + estimate.program;
            assert_near_plan(
                estimate.total_bytes() - not_reserved,
                reserved,
                &format!("{architecture:?}, recompute: {recompute}"),
            );
        }

        let with_teacher = MemoryInputs {
            local_batch_size: 0,
            teacher: Some((&model.image, 40)),
            ..inputs
        };

        let plan = BatchPlan {
            micro_batch: 12,
            recompute: false,
        };

        let reserved =
            reserved_bytes(|| Teacher::new(&Memory::Host, &model.image, 40, plan.micro_batch));
        // Its gradients are reserved with its weights, and never written.
        let layout = Clip::param_layout(&ModelConfig {
            embed_dim: 40,
            ..model.clone()
        });

        let image_segments = layout
            .segments()
            .iter()
            .filter(|segment| segment.name.starts_with("visual."));

        let gradients: usize = image_segments
            .map(|segment| segment.range.len() * size_of::<f32>())
            .sum();

        assert_near_plan(
            with_teacher.estimate_memory(plan).teacher,
            reserved - gradients as u64,
            &format!("teacher of {architecture:?}"),
        );
    }
}

#[test]
fn an_object_is_copied_in_the_memory_of_a_few_parts_however_large_it_is() {
    let _alone = lock_ignoring_poison(&COUNTING);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    std::fs::File::create(path("x"))
        .unwrap()
        .set_len(512 << 20)
        .unwrap();

    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    store.download_to("x", &path("copy")).unwrap();
    let peak = MEMORY.peak_usage() - before;
    assert_eq!(std::fs::metadata(path("copy")).unwrap().len(), 512 << 20);
    assert!(peak < (512 << 20) / 4, "{peak} bytes");
}

#[test]
fn an_object_is_written_in_the_memory_of_a_few_parts_however_large_it_is() {
    const PIECES: usize = 512;
    let _alone = lock_ignoring_poison(&COUNTING);
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    let piece = vec![7; 1 << 20];
    let before = MEMORY.current_usage();

    MEMORY.reset_peak_usage();
    let write_pieces =
        |writer: &mut ObjectWriter<'_>| (0..PIECES).try_for_each(|_| writer.write_all(&piece));
    store
        .write_with("x", |writer| {
            write_pieces(writer).map_err(Error::io_context("write", "x"))
        })
        .unwrap();

    let peak = MEMORY.peak_usage() - before;
    assert_eq!(
        store.object_size("x").unwrap(),
        Some((PIECES * piece.len()) as u64)
    );

    assert!(peak < PIECES * piece.len() / 4, "{peak} bytes");
}

/// What a stage plans for on the host, for so much that is loaded and validated.
fn estimate_host(host: HostInputs) -> MemoryEstimate {
    let config = train_config(&model(2));
    let inputs = MemoryInputs {
        config: &config,
        local_batch_size: 24,
        shard_bytes: 0,
        teacher: None,
        shuffle_window: 1 << 30,
        threads: 1,
        device: None,
        host,
    };

    inputs.estimate_memory(BatchPlan {
        micro_batch: 12,
        recompute: false,
    })
}

/// Fails unless a plan covers a peak, and is not more than twice as large.
fn assert_covers(planned: u64, peak: usize, what: &str) {
    let peak = peak as u64;
    assert!(peak <= planned, "{what}: {planned} planned, {peak} used");
    assert!(
        planned <= 2 * peak,
        "{what}: {planned} planned, {peak} used"
    );
}

#[test]
fn the_plan_covers_an_image_of_twenty_megapixels_that_is_decoded() {
    const WIDTH: u32 = 5000;
    const HEIGHT: u32 = 4000;
    let _alone = lock_ignoring_poison(&COUNTING);
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, WIDTH, HEIGHT);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    let pixels = vec![9; (3 * WIDTH * HEIGHT) as usize];
    writer.write_image_data(&pixels).unwrap();
    writer.finish().unwrap();
    drop(pixels);

    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let image = decode_image(&file).unwrap();
    let peak = MEMORY.peak_usage() - before;
    drop(image);

    let one_thread = HostInputs {
        loader_threads: 1,
        ..HostInputs::default()
    };
    assert_covers(estimate_host(one_thread).decoding, peak, "decoding");
}

#[test]
fn the_plan_covers_the_features_of_a_validation_on_every_rank() {
    const RANKS: usize = 2;
    const ITEMS: usize = 1 << 17;
    let _alone = lock_ignoring_poison(&COUNTING);
    let width = model(2).embed_dim as usize;
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let gathered = run_on_ranks(RANKS, |communicator| {
        let features = vec![1f32; ITEMS / RANKS * width];
        communicator.all_gather_concat(features).unwrap().len()
    });

    let peak = MEMORY.peak_usage() - before;
    assert_eq!(gathered.unwrap(), [ITEMS * width; RANKS]);
    let validation = HostInputs {
        validation_items: ITEMS as u64,
        ..HostInputs::default()
    };
    let planned = RANKS as u64 * estimate_host(validation).validation;
    assert_covers(planned, peak, "validation");
}
