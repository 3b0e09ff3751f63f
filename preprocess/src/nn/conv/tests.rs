//! Every kind of convolution against the definition in f64.

use super::*;
use crate::nn::synthetic::synthetic_tensor;

/// One case: shapes, stride, padding, and how the result is finished.
struct Case {
    input: [usize; 4],
    out_channels: usize,
    kernel: (usize, usize),
    stride: usize,
    padding: Padding,
    border: Padding,
    activation: Activation,
    residual: bool,
}

/// The definition, one output at a time; everything `[n, c, h, w]`.
fn reference(case: &Case, input: &[f32], weight: &[f32], bias: &[f32], residual: Option<&[f32]>) -> Vec<f64> {
    let [batch, channels, height, width] = case.input;
    let (kh, kw) = case.kernel;
    let out_height = (height + case.padding.top + case.padding.bottom - kh) / case.stride + 1;
    let out_width = (width + case.padding.left + case.padding.right - kw) / case.stride + 1;
    let mut out = Vec::new();
    for n in 0..batch {
        for o in 0..case.out_channels {
            for y in 0..out_height {
                for x in 0..out_width {
                    let mut sum = f64::from(bias[o]);
                    for c in 0..channels {
                        for ky in 0..kh {
                            for kx in 0..kw {
                                let iy = (y * case.stride + ky).wrapping_sub(case.padding.top);
                                let ix = (x * case.stride + kx).wrapping_sub(case.padding.left);
                                if iy < height && ix < width {
                                    let value = input[((n * channels + c) * height + iy) * width + ix];
                                    let weight = weight[((o * channels + c) * kh + ky) * kw + kx];
                                    sum += f64::from(value) * f64::from(weight);
                                }
                            }
                        }
                    }
                    sum += residual.map_or(0.0, |values| f64::from(values[out.len()]));
                    out.push(match case.activation {
                        Activation::None => sum,
                        Activation::Relu => sum.max(0.0),
                        Activation::Silu => sum / (1.0 + (-sum).exp()),
                    });
                }
            }
        }
    }
    out
}

fn check(case: &Case) {
    let [batch, channels, height, width] = case.input;
    let (kh, kw) = case.kernel;
    let shape = [case.out_channels, channels, kh, kw];
    let weight = synthetic_tensor("conv.weight", 1, &shape, 12.0);
    let bias = synthetic_tensor("conv.bias", 2, &[case.out_channels], 12.0);
    let input = synthetic_tensor("input", 3, &[batch * channels * height * width], 12.0);
    let input: Vec<f32> = input.iter().map(|v| v * 10.0).collect();
    let conv = Conv2d::new(&weight, shape, bias.clone(), case.stride, case.padding).unwrap();
    let (out_height, out_width) = conv.output_size(height, width).unwrap();
    let out_shape = [batch, case.out_channels, out_height, out_width];
    let residual = case
        .residual
        .then(|| synthetic_tensor("residual", 4, &[out_shape.iter().product()], 12.0));
    let residual_map = residual
        .as_ref()
        .map(|values| FeatureMap::from_nchw(values, out_shape, Padding::ONE).unwrap());
    let map = FeatureMap::from_nchw(&input, case.input, case.border).unwrap();
    let padding = Padding {
        top: 2,
        bottom: 1,
        left: 0,
        right: 3,
    };
    let output = Output {
        padding,
        activation: case.activation,
        residual: residual_map.as_ref(),
    };
    let out = conv.forward(&map, output).unwrap();
    let expected = reference(case, &input, &weight, &bias, residual.as_deref());
    let values = out.to_nchw();
    assert_eq!(values.len(), expected.len());
    for (value, expected) in values.iter().zip(&expected) {
        assert!((f64::from(*value) - expected).abs() < 1e-5, "{value} {expected}");
    }
    let inside: f64 = values.iter().map(|&v| f64::from(v).abs()).sum();
    let all: f64 = out.data().iter().map(|&v| f64::from(v).abs()).sum();
    assert!((inside - all).abs() < 1e-9 * inside, "the border must stay zero");
}

#[test]
fn every_kernel_stride_and_padding_matches_the_definition() {
    let kernels = [(3, 3), (1, 1), (1, 7), (7, 1), (1, 3), (3, 1), (5, 5), (2, 4)];
    let mut count = 0;
    for kernel in kernels {
        for stride in [1, 2, 3] {
            for (padding, wider) in [
                (Padding::NONE, 0),
                (Padding::symmetric(kernel.0 / 2, kernel.1 / 2), 0),
                (
                    Padding {
                        right: 1,
                        bottom: 1,
                        ..Padding::NONE
                    },
                    1,
                ),
            ] {
                for (batch, height, width) in [(1, 9, 7), (3, 8, 11)] {
                    count += 1;
                    check(&Case {
                        input: [batch, 3 + count % 4, height, width],
                        out_channels: 1 + count % 19,
                        kernel,
                        stride,
                        padding,
                        border: Padding {
                            top: padding.top + wider,
                            bottom: padding.bottom,
                            left: padding.left + 2 * wider,
                            right: padding.right + wider,
                        },
                        activation: [Activation::None, Activation::Relu, Activation::Silu][count % 3],
                        residual: count % 2 == 0,
                    });
                }
            }
        }
    }
}

#[test]
fn many_tiles_make_the_same_picture_as_the_definition() {
    for stride in [1, 2] {
        check(&Case {
            input: [2, 5, 61, 47],
            out_channels: 18,
            kernel: (3, 3),
            stride,
            padding: Padding::ONE,
            border: Padding::ONE,
            activation: Activation::Silu,
            residual: true,
        });
    }
}

#[test]
fn misfits_are_errors() {
    let conv = Conv2d::new(&[0.0; 18], [1, 2, 3, 3], vec![0.0], 1, Padding::ONE).unwrap();
    let channels = FeatureMap::zeros([1, 4, 4, 3], Padding::ONE);
    let border = FeatureMap::zeros([1, 4, 4, 2], Padding::NONE);
    let fits = FeatureMap::zeros([1, 4, 4, 2], Padding::ONE);
    assert!(matches!(
        conv.forward(&channels, Output::default()),
        Err(Error::Channels { .. })
    ));
    assert!(matches!(
        conv.forward(&border, Output::default()),
        Err(Error::Border { .. })
    ));
    let output = Output {
        residual: Some(&channels),
        ..Output::default()
    };
    assert!(matches!(conv.forward(&fits, output), Err(Error::Residual { .. })));
    assert!(Conv2d::new(&[0.0; 17], [1, 2, 3, 3], vec![0.0], 1, Padding::ONE).is_err());
    let valid = Conv2d::new(&[0.0; 18], [1, 2, 3, 3], vec![0.0], 1, Padding::NONE).unwrap();
    let small = FeatureMap::zeros([1, 2, 2, 2], Padding::NONE);
    assert!(matches!(
        valid.forward(&small, Output::default()),
        Err(Error::TooSmall { .. })
    ));
}

#[test]
fn fewer_products_give_the_same_sums() {
    for (input, out_channels, border, padding) in [
        ([2, 64, 9, 14], 96, Padding::ONE, Padding::ONE),
        ([1, 80, 4, 4], 64, Padding::same(2), Padding::ONE),
        ([1, 64, 1, 3], 64, Padding::ONE, Padding::ONE),
        ([1, 65, 40, 70], 64, Padding::ONE, Padding::ONE),
        ([2, 64, 9, 14], 96, Padding::NONE, Padding::NONE),
        ([1, 64, 3, 8], 64, Padding::ONE, Padding::NONE),
        ([1, 65, 40, 71], 64, Padding::NONE, Padding::NONE),
    ] {
        let [batch, channels, height, width] = input;
        let shape = [out_channels, channels, 3, 3];
        let weight = synthetic_tensor("conv.weight", 1, &shape, 12.0);
        let bias = synthetic_tensor("conv.bias", 2, &[out_channels], 12.0);
        let values = synthetic_tensor("input", 3, &[batch * channels * height * width], 12.0);
        let map = FeatureMap::from_nchw(&values, input, border).unwrap();
        let conv = Conv2d::new(&weight, shape, bias, 1, padding).unwrap();
        let (height, width) = conv.output_size(height, width).unwrap();
        let residual = synthetic_tensor("residual", 4, &[batch * out_channels * height * width], 12.0);
        let residual =
            FeatureMap::from_nchw(&residual, [batch, out_channels, height, width], Padding::NONE).unwrap();
        let output = Output {
            padding: Padding {
                top: 1,
                bottom: 0,
                left: 2,
                right: 1,
            },
            activation: Activation::Silu,
            residual: Some(&residual),
        };
        let plain = conv.forward(&map, output).unwrap();
        let few = conv.with_fewer_products().forward(&map, output).unwrap();
        let all = plain.data().iter().zip(few.data());
        let worst = all.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "{input:?}: {worst}");
    }
}
