// The states of a diagonal state space model: discretisation in f64, and the gradients of their parameters.
// The twin on the CPU: trainer/src/ops/ssm_kernel.rs.
#pragma once
#include "common.cuh"

namespace {

struct Complex64 {
  double re, im;
};
__device__ __forceinline__ Complex64 operator+(Complex64 a, Complex64 b) { return {a.re + b.re, a.im + b.im}; }
__device__ __forceinline__ Complex64 operator-(Complex64 a, Complex64 b) { return {a.re - b.re, a.im - b.im}; }
__device__ __forceinline__ Complex64 operator*(Complex64 a, Complex64 b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
__device__ __forceinline__ Complex64 operator*(double a, Complex64 b) { return {a * b.re, a * b.im}; }
__device__ __forceinline__ Complex64 conj(Complex64 a) { return {a.re, -a.im}; }
__device__ __forceinline__ Complex64 inverse(Complex64 a) {
  double scale = 1.0 / (a.re * a.re + a.im * a.im);
  return {a.re * scale, -a.im * scale};
}
__device__ __forceinline__ Complex64 from_pair(double2 v) { return {v.x, v.y}; }
__device__ __forceinline__ double2 to_pair(Complex64 v) { return make_double2(v.re, v.im); }

/// The parameters of a bank of channels: log_dt [channels], the others [channels, states].
struct Parameters {
  GlobalIn<float> log_dt, log_a_real, a_imag, b_re, b_im, c_re, c_im;
};

/// Their gradients but that of log_dt, in the same layouts.
struct StateGradients {
  GlobalOut<float> log_a_real, a_imag, b_re, b_im, c_re, c_im;
};

/// How the continuous system is turned into steps: as `ops::ssm_kernel::Discretization`.
constexpr int ZOH = 0;

/// One discretised state.
struct State {
  double dt;
  Complex64 a, b, c, step, phi;
};

__device__ __forceinline__ State discretise(const Parameters &p, int kind, size_t channel, size_t at) {
  State s;
  s.dt = exp(double(p.log_dt[channel]));
  s.a = {-exp(double(p.log_a_real[at])), double(p.a_imag[at])};
  s.b = {double(p.b_re[at]), double(p.b_im[at])};
  s.c = {double(p.c_re[at]), double(p.c_im[at])};
  Complex64 x = s.dt * s.a, one = {1.0, 0.0};
  if (kind == ZOH) {
    double sine, cosine, size = exp(x.re);
    sincos(x.im, &sine, &cosine);
    s.step = {size * cosine, size * sine};
    s.phi = (s.step - one) * inverse(s.a);
  } else {
    Complex64 inverted = inverse(one - 0.5 * x);
    s.step = (one + 0.5 * x) * inverted;
    s.phi = s.dt * inverted;
  }
  return s;
}

/// Adds the gradients of a state's parameters, given the moments `zeroth = sum_l conj(e^{zl}) dk_l` and
/// `first = sum_l l conj(e^{zl}) dk_l`; returns the state's share of that of log_dt.
///
/// With complex gradients written as d/dRe + i d/dIm, the rule through a holomorphic f is conj(f').
__device__ __forceinline__ double add_state_gradients(const Parameters &p, const StateGradients &d, int kind, size_t channel,
                                                      size_t at, Complex64 zeroth, Complex64 first, bool train_b) {
  State s = discretise(p, kind, channel, at);
  Complex64 dz_da, dz_ddt, dphi_da, dphi_ddt, one = {1.0, 0.0};
  if (kind == ZOH) {
    dz_da = {s.dt, 0.0};
    dz_ddt = s.a;
    dphi_da = (s.dt * s.step - s.phi) * inverse(s.a);
    dphi_ddt = s.step;
  } else {
    Complex64 x = s.dt * s.a, inverted = inverse(one - 0.5 * x), slope = inverse(one - 0.25 * (x * x));
    dz_da = s.dt * slope;
    dz_ddt = slope * s.a;
    dphi_da = (0.5 * s.dt * s.dt) * (inverted * inverted);
    dphi_ddt = inverted * inverted;
  }
  Complex64 d_gain = 2.0 * zeroth;
  Complex64 d_z = 2.0 * (conj(s.c * s.b * s.phi) * first);
  Complex64 d_c = d_gain * conj(s.b * s.phi), d_b = d_gain * conj(s.c * s.phi), d_phi = d_gain * conj(s.c * s.b);
  Complex64 d_a = conj(dz_da) * d_z + conj(dphi_da) * d_phi;
  double d_dt = (conj(dz_ddt) * d_z + conj(dphi_ddt) * d_phi).re;
  d.log_a_real[at] += float(d_a.re * s.a.re);
  d.a_imag[at] += float(d_a.im);
  if (train_b) {
    d.b_re[at] += float(d_b.re);
    d.b_im[at] += float(d_b.im);
  }
  d.c_re[at] += float(d_c.re);
  d.c_im[at] += float(d_c.im);
  return d_dt * s.dt;
}

}  // namespace
