-- blocking: no
-- loses: reviews

DROP VIEW IF EXISTS reviewed_verdicts;
DROP VIEW IF EXISTS reviews;
DROP TABLE IF EXISTS reviews_raw;
