//! ZooKeeper's error numbers, and which of them our refusals are.

use std::fmt;

use quorate_model::outcome::Refusal;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// An error in a reply's header or in a multi's part: ZooKeeper's `KeeperException.Code`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $name = $number,)*
        }

        impl ErrorCode {
            /// All of them.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name,)*];

            /// What the number stands for; none for 0, which is no error, and for unknown ones.
            pub fn from_number(number: i32) -> Option<ErrorCode> {
                match number {
                    $($number => Some(ErrorCode::$name),)*
                    _ => None,
                }
            }

            /// Its name, as in ZooKeeper's documentation.
            pub fn name(self) -> &'static str {
                match self {
                    $(ErrorCode::$name => stringify!($name),)*
                }
            }
        }
    };
}

error_codes! {
    /// A defect of the server's.
    SystemError = -1,
    /// The server contradicts itself; in a multi, a part behind the one that failed.
    RuntimeInconsistency = -2,
    /// The data contradict themselves.
    DataInconsistency = -3,
    /// The connection was lost, so nobody knows.
    ConnectionLoss = -4,
    /// The request could not be read.
    MarshallingError = -5,
    /// The server does not know the operation.
    Unimplemented = -6,
    /// It took too long.
    OperationTimeout = -7,
    /// A bad path, or a flag that does not exist.
    BadArguments = -8,
    /// There is no such session.
    UnknownSession = -12,
    /// The new configuration has no quorum.
    NewConfigNoQuorum = -13,
    /// Another configuration change is under way.
    ReconfigInProgress = -14,
    /// Where the errors of the interface begin.
    ApiError = -100,
    /// There is no such znode.
    NoNode = -101,
    /// The client may not.
    NoAuth = -102,
    /// The version is not the expected one.
    BadVersion = -103,
    /// An ephemeral znode has no children.
    NoChildrenForEphemerals = -108,
    /// The znode exists already.
    NodeExists = -110,
    /// The znode has children.
    NotEmpty = -111,
    /// The session has ended.
    SessionExpired = -112,
    /// A callback that does not exist.
    InvalidCallback = -113,
    /// An access control list that is empty or does not make sense.
    InvalidAcl = -114,
    /// The identity was not proved.
    AuthFailed = -115,
    /// The session goes on over another connection.
    SessionMoved = -118,
    /// The server is cut off from the others and only reads.
    NotReadOnly = -119,
    /// A local session has no ephemerals.
    EphemeralOnLocalSession = -120,
    /// There is no such watcher.
    NoWatcher = -121,
    /// The request waited too long.
    RequestTimeout = -122,
    /// Reconfiguration is switched off.
    ReconfigDisabled = -123,
    /// The server takes only clients that proved who they are.
    SessionClosedRequireSaslAuth = -124,
    /// A quota is used up.
    QuotaExceeded = -125,
}

impl ErrorCode {
    /// Its number on the wire.
    pub fn number(self) -> i32 {
        self as i32
    }

    /// What a ZooKeeper client is told of a refusal. The part of a multi that failed gives its own number.
    pub fn of(refusal: &Refusal) -> ErrorCode {
        match refusal {
            Refusal::NoNode(_) | Refusal::NotMounted(_) => ErrorCode::NoNode,
            Refusal::NodeExists(_) => ErrorCode::NodeExists,
            Refusal::BadVersion { .. } => ErrorCode::BadVersion,
            Refusal::NotEmpty(_) => ErrorCode::NotEmpty,
            Refusal::NoChildrenForEphemerals(_) => ErrorCode::NoChildrenForEphemerals,
            Refusal::InvalidAcl => ErrorCode::InvalidAcl,
            // A guard says who may write what; its reason follows the header, for clients that look.
            Refusal::NoAuth(_) | Refusal::GuardRefused { .. } | Refusal::GuardFailed { .. } => {
                ErrorCode::NoAuth
            }
            Refusal::SessionExpired => ErrorCode::SessionExpired,
            Refusal::SessionMoved => ErrorCode::SessionMoved,
            Refusal::Multi { refusal, .. } => ErrorCode::of(refusal),
            Refusal::BoundReached { .. } => ErrorCode::QuotaExceeded,
            Refusal::NotReady(_) => ErrorCode::RequestTimeout,
            Refusal::BadArguments(_)
            | Refusal::BadCall(_)
            | Refusal::Acknowledged { .. }
            | Refusal::KeyReused { .. }
            | Refusal::Suspended { .. }
            | Refusal::Unmounting(_)
            | Refusal::Overtaken(_)
            | Refusal::NoCall { .. }
            | Refusal::NeedsKey(_)
            | Refusal::NoRecipe(_)
            | Refusal::RecipeInUse { .. }
            | Refusal::MountsNest { .. } => ErrorCode::BadArguments,
            Refusal::Defect(_) => ErrorCode::SystemError,
            Refusal::LocalSession => ErrorCode::EphemeralOnLocalSession,
            Refusal::NoComponent(_) => ErrorCode::NoNode,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_model::path::ZnodePath;

    #[test]
    fn numbers_and_codes_are_one_to_one() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code.number()), Some(*code));
        }
        assert_eq!(ErrorCode::from_number(0), None);
        assert_eq!(ErrorCode::from_number(-9), None);
        assert_eq!(ErrorCode::NoNode.to_string(), "NoNode (-101)");
    }

    #[test]
    fn a_multi_tells_the_number_of_its_part() {
        let refusal = Refusal::Multi {
            index: 1,
            refusal: Box::new(Refusal::NodeExists(ZnodePath::root())),
        };
        assert_eq!(ErrorCode::of(&refusal), ErrorCode::NodeExists);
    }
}
