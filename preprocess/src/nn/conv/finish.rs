//! What happens to a convolution's sums while they are in cache: bias, residual, activation.

use crate::nn::activation::Activation;

/// `out = activation(products + bias + residual)` for a run of pixels.
pub(super) fn finish_row(
    out: &mut [f32],
    products: &[f32],
    bias: &[f32],
    residual: Option<&[f32]>,
    activation: Activation,
) {
    pulp::Arch::new().dispatch(Finish {
        out,
        products,
        bias,
        residual,
        activation,
    });
}

struct Finish<'a> {
    out: &'a mut [f32],
    products: &'a [f32],
    bias: &'a [f32],
    residual: Option<&'a [f32]>,
    activation: Activation,
}

impl pulp::WithSimd for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        match self.activation {
            Activation::None => self.finish(
                #[inline(always)]
                |x| x,
            ),
            Activation::Relu => self.finish(
                #[inline(always)]
                |x| Activation::Relu.apply(x),
            ),
            Activation::Silu => self.finish(
                #[inline(always)]
                |x| Activation::Silu.apply(x),
            ),
        }
    }
}

impl Finish<'_> {
    #[inline(always)]
    fn finish(self, activation: impl Fn(f32) -> f32) {
        let channels = self.bias.len();
        let pixels = self
            .out
            .chunks_exact_mut(channels)
            .zip(self.products.chunks_exact(channels));
        if let Some(residual) = self.residual {
            for ((out, products), residual) in pixels.zip(residual.chunks_exact(channels)) {
                for (((out, product), bias), residual) in
                    out.iter_mut().zip(products).zip(self.bias).zip(residual)
                {
                    *out = activation(product + bias + residual);
                }
            }
        } else {
            for (out, products) in pixels {
                for ((out, product), bias) in out.iter_mut().zip(products).zip(self.bias) {
                    *out = activation(product + bias);
                }
            }
        }
    }
}
