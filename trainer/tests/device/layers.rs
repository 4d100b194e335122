//! Operations on rows: products with weights, normalisations, activations.

use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::activation::Activation;
use cnclip_compute::ops::l2_normalize;
use cnclip_compute::ops::layer_norm::LayerNorm;
use cnclip_compute::ops::linear::{Linear, add_column_sums};
use cnclip_compute::params::{ParamInit, ParamLayout};
use cnclip_crds::stage::Precision;

use crate::both::{Both, PLACES};
use crate::support::{FORMATS, memory};
use cnclip_compute::device::DType;

const BOTH_WAYS: [Accumulate; 2] = [Accumulate::No, Accumulate::Yes];

fn layout(format: DType) -> ParamLayout {
    let precision = if format == DType::Bf16 {
        Precision::Bf16
    } else {
        Precision::Fp32
    };

    ParamLayout::new(precision).with_memory(&memory(format))
}

#[test]
fn linear_layers() {
    for format in FORMATS {
        for (rows, inputs, outputs) in [(1, 8, 16), (13, 24, 40), (67, 17, 31)] {
            for (onto, projects) in BOTH_WAYS.into_iter().zip([false, true]) {
                let mut layout = layout(format);
                let linear = if projects {
                    let weight = layout.register_weight("w", &[inputs, outputs], ParamInit::Zeros);
                    Linear::new_projection(weight, inputs)
                } else {
                    let none = (ParamInit::Zeros, ParamInit::Zeros);
                    Linear::declare_params(&mut layout, "l", (inputs, outputs), none)
                };

                let values = Both::weights(layout.next_offset(), 1, format);
                let mut gradients = Both::exact(layout.next_offset(), 2, format);
                let x = Both::array(rows * inputs, 3, format);
                let dy = Both::array(rows * outputs, 4, format);
                let mut y = Both::array(rows * outputs, 5, format);
                let mut dx = Both::array(rows * inputs, 6, format);

                for place in PLACES {
                    linear.forward(values.view(place), x.view(place), y.view_mut(place), onto);
                    let gradients = &mut gradients.view_mut(place);
                    let weights = (values.view(place), gradients);
                    linear.backward(
                        weights,
                        x.view(place),
                        dy.view(place),
                        dx.view_mut(place),
                        onto,
                    );
                }

                y.agree("linear y", 1.0);
                dx.agree("linear dx", 1.0);
                gradients.agree("linear gradients", 0.1);
            }
        }
    }
}

#[test]
fn sums_of_columns() {
    for format in FORMATS {
        for (rows, width) in [(1, 1), (31, 64), (2003, 17), (777, 200)] {
            let x = Both::array(rows * width, 1, format);
            let mut sums = Both::exact(width, 2, DType::F32);
            let mut again = Both::exact(width, 2, DType::F32);

            for place in PLACES {
                add_column_sums(x.view(place), sums.view_mut(place));
                add_column_sums(x.view(place), again.view_mut(place));
            }

            sums.agree("sums of columns", 0.0);
            assert_eq!(
                sums.on_device(),
                again.on_device(),
                "the same sums each time"
            );
        }
    }
}

#[test]
fn layer_norms() {
    for format in FORMATS {
        for (rows, width) in [(1, 8), (13, 24), (203, 768), (67, 17), (9, 331)] {
            for onto in BOTH_WAYS {
                let mut layout = layout(format);
                let norm = LayerNorm::declare_params(&mut layout, "n", width, 1e-5);
                let values = Both::weights(layout.next_offset(), 1, format);
                let mut gradients = Both::exact(layout.next_offset(), 2, DType::F32);
                let x = Both::array(rows * width, 3, format);
                let dy = Both::array(rows * width, 4, format);
                let mut y = Both::array(rows * width, 5, format);
                let mut dx = Both::array(rows * width, 6, format);

                let mut moments = Both::exact(rows * 2, 7, DType::F32);
                for place in PLACES {
                    let view = (values.view(place), x.view(place));
                    norm.forward(view.0, view.1, y.view_mut(place), moments.view_mut(place));
                    let gradients = &mut gradients.view_mut(place);
                    let inner = (x.view(place), moments.view(place));
                    norm.backward(
                        (view.0, gradients),
                        inner,
                        dy.view(place),
                        dx.view_mut(place),
                        onto,
                    );
                }

                y.agree("layer norm y", 1.0);
                moments.agree("moments", 0.0);
                dx.agree("layer norm dx", 1.0);
                gradients.agree("layer norm gradients", 0.0);
            }
        }
    }
}

#[test]
fn activations() {
    for format in FORMATS {
        for len in [1, 8, 1009, 4096] {
            for activation in [Activation::Gelu, Activation::QuickGelu] {
                let mut x = Both::array(len, 1, format);
                let mut y = Both::array(len, 2, format);
                let mut dy = Both::array(len, 3, format);

                for place in PLACES {
                    x.view_mut(place)
                        .update_on_host(|x| x.iter_mut().for_each(|x| *x *= 8.0));
                    activation.forward(x.view(place), y.view_mut(place));
                    activation.backward(x.view(place), dy.view_mut(place));
                }

                y.agree("activation y", 1.0);
                dy.agree("activation dx", 1.0);
            }
        }
    }
}

#[test]
fn unit_vectors() {
    for format in FORMATS {
        for (rows, width) in [(1, 1), (13, 64), (8, 331)] {
            let x = Both::exact(rows * width, 1, DType::F32);
            let mut y = Both::exact(rows * width, 2, DType::F32);
            let dy = Both::exact(rows * width, 3, DType::F32);
            let mut dx = Both::array(rows * width, 4, format);

            for place in PLACES {
                l2_normalize::forward(width, x.view(place), y.view_mut(place));
                l2_normalize::backward(width, x.view(place), dy.view(place), dx.view_mut(place));
            }

            y.agree("unit vectors", 0.0);
            dx.agree("unit vectors' gradient", 1.0);
        }
    }
}
