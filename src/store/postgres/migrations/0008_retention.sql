-- Samples before the floor are expired: days below it are dropped, and what comes later for such days is not stored. Null: everything is
-- kept. It only rises. Programs that do not know it store what comes late; it is dropped again.
ALTER TABLE store ADD COLUMN IF NOT EXISTS floor timestamptz;

-- Of the valid rows, those that were before the floor when they came.
ALTER TABLE source ADD COLUMN IF NOT EXISTS expired bigint NOT NULL DEFAULT 0;
