//! What every store promises (`conformance`, `once`, `histories`, `reading`), and what each adds (`postgres`, `sqlite`).

mod blocks;
mod conformance;
mod damaged;
mod diagnose;
mod histories;
mod maintenance;
mod names;
mod once;
mod packed;
mod pooler;
mod postgres;
mod reading;
mod retention;
mod rollups;
mod rows;
mod sets;
mod slabs;
mod snapshots;
mod sqlite;
mod standby;
mod tls;
mod upgrade;

/// Runs every promise on the stores that `$new` makes: `async fn() -> impl Harness`. Brought into a module of its own.
macro_rules! suite {
    ($new:expr) => {
        super::suite! { @each $new;
            conformance::rows_are_stored_with_their_range,
            conformance::an_empty_group_is_no_error,
            conformance::a_redelivery_changes_nothing,
            conformance::other_borders_change_nothing,
            conformance::another_content_under_the_same_id_loses_nothing,
            conformance::siblings_of_a_family_are_stored_once,
            conformance::time_may_jump_back_and_forth,
            conformance::every_accepted_year_and_bit_is_kept,
            conformance::every_reason_is_kept,
            conformance::odd_texts_do_not_stop_a_batch,
            conformance::failures_are_counted_by_entry,
            conformance::dead_letters_settle_and_can_be_revived,
            conformance::dead_letters_can_be_given_up,
            conformance::letters_of_the_same_rows_are_kept_each_with_its_payload,
            conformance::what_gauges_say_is_what_there_is,
            once::windows_that_overlap_are_stored_once,
            once::a_file_saved_again_is_stored_once,
            once::rows_repeated_inside_a_file_are_stored_once,
            once::files_ordered_otherwise_are_stored_once,
            once::collectors_with_overlapping_files_at_once,
            once::a_conflict_keeps_both_values,
            once::conflicts_are_listed,
            once::zeros_of_both_signs_are_two_values,
            once::history_that_comes_late_is_stored,
            histories::collectors_that_meet_everything_new_at_once,
            histories::collectors_with_the_same_gpus_do_not_deadlock,
            retention::what_is_past_its_time_goes_and_what_comes_late_is_counted,
            retention::conflicts_of_days_that_are_gone_are_forgotten,
            reading::lists_are_ordered_and_pages_join,
            reading::a_reading_ends_where_its_texts_are_long,
            reading::filters_restrict,
            reading::a_gpu_described_anew_is_one_gpu,
            reading::chunks_come_by_their_borders,
            reading::the_newest_sample_is_the_later_one,
            names::a_metric_is_stored_once_whatever_it_is_called,
        }

        #[test]
        fn random_histories() {
            histories::random_histories($new);
        }

        #[test]
        fn random_sources() {
            once::random_sources($new);
        }
    };
    (@each $new:expr; $($module:ident::$name:ident),* $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $module::$name(&($new)().await).await;
        })*
    };
}
use suite;
