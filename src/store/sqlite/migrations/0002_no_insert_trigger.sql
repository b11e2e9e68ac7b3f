-- The writer checks the order of what it appends; a trigger a row cost more than the insert itself.
DROP TRIGGER entry_appends_only;
