-- Put or delete: writes a record where nothing newer stands. Never replaces one that fails its
-- checksum. Keys, arguments and replies: lib/apply.lua.

return apply(false)
