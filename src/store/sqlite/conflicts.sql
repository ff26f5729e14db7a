-- Where conflicts are (see PostgreSQL's `sample_conflict`): n of a series between these times. One row a commit, source and series.
CREATE TABLE conflict (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    source_id BLOB NOT NULL,
    series_id INTEGER NOT NULL,
    t_min INTEGER NOT NULL,
    t_max INTEGER NOT NULL,
    n INTEGER NOT NULL,
    noted_ms INTEGER NOT NULL
);
