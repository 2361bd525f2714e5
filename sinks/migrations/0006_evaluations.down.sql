-- blocking: no
-- loses: evaluations and their rows

DROP VIEW IF EXISTS evaluation_rows;
DROP VIEW IF EXISTS evaluations;
DROP TABLE IF EXISTS evaluation_rows_raw;
DROP TABLE IF EXISTS evaluations_raw;
