//! The protobuf messages.
