-- As write, for jobs that bring an owner what another owner holds: also a record at or below
-- purged-through or closed-through. Keys, arguments and replies: lib/apply.lua.
--
-- A job that slept may still hold a value that was deleted, and whose tombstone was purged, in the
-- meantime, under the same epoch. Purging raises purged-through above what the job has seen.

return apply(false, ARGV[6] or '')
