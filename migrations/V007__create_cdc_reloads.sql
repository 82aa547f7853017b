-- One line for each reload of a table: the generation that it fills, from which moment on, in which shadow table.
-- Code that does not know generations would load superseded files again, so none older than this runs on it.
-- compatible_from: 7
CREATE TABLE IF NOT EXISTS cdc_reloads (
    turn TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    generation BIGINT NOT NULL,
    starts TIMESTAMPTZ NOT NULL,
    settings TEXT NOT NULL,
    shadow TEXT NOT NULL,
    status TEXT NOT NULL,
    began_at TIMESTAMPTZ NOT NULL,
    ended_at TIMESTAMPTZ NULL
)
PRIMARY INDEX turn
PARTITION BY turn;
