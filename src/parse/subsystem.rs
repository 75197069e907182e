//! Which of nginx's modules reads the directive.

/// The part of nginx whose grammar holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subsystem {
    /// `stream { server { listen …; } }`
    #[default]
    Stream,
    /// `http { server { listen …; } }`
    Http,
    /// `mail { server { listen …; } }`
    Mail,
}
