-- Waits for the inserts that had begun before 0020: `throwIf` means not yet, and the statement is run again.
SELECT throwIf(count() > 0, 'inserts are still under way')
FROM {{processes}}
WHERE query_kind = 'Insert' AND query LIKE '%events_in%'
