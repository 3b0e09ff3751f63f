//! The dispatch to the widest instructions that the processor has.

/// Defines a function whose body is compiled for the widest vectors of the processor, chosen when it runs.
///
/// The body moves into an always inlined method of a type: a closure would be compiled on its own, for the oldest
/// processor, as soon as the compiler finds it too long to inline.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$life:lifetime>($($arg:ident: $kind:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        $vis fn $name<$life>($($arg: $kind),*) {
            struct Work<$life> {
                $($arg: $kind,)*
            }
            impl pulp::WithSimd for Work<'_> {
                type Output = ();

                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) {
                    let Self { $($arg),* } = self;
                    $body
                }
            }
            pulp::Arch::new().dispatch(Work { $($arg),* });
        }
    };
}
pub(crate) use vectorised;
