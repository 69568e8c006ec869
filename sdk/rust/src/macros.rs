//! Short forms.

/// The path of its parts: `path!(name, ticket)` is `"<name>/<ticket>"`.
#[macro_export]
macro_rules! path {
    ($first:expr $(, $rest:expr)* $(,)?) => {{
        let mut path = ::std::string::ToString::to_string(&$first);
        $(
            path.push('/');
            path.push_str(&::std::string::ToString::to_string(&$rest));
        )*
        path
    }};
}

/// Watches znodes and parks: `park!(memo; path, …)`. Does not return.
#[macro_export]
macro_rules! park {
    ($memo:expr; $($path:expr),+ $(,)?) => {{
        $($crate::watch::node(&$path);)+
        $crate::call::park(&$memo)
    }};
}

/// Refuses with a reason written as for `format!`. Does not return.
#[macro_export]
macro_rules! refuse {
    ($($reason:tt)+) => {
        $crate::call::refuse(&::std::format!($($reason)+))
    };
}
