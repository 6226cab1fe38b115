-- What wrk sends for bodies: downloads of SIZE bytes, or uploads of as many.  Arguments: down or up, then SIZE.
dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "result.lua")

function init(args)
  local size = tonumber(args[2])
  wrk.headers["Host"] = "shop.example.com"
  if args[1] == "up" then
    wrk.method, wrk.path, wrk.body = "PUT", "/bodies/one", string.rep("x", size)
    wrk.headers["Content-Length"] = tostring(size)
  else
    wrk.method, wrk.path = "GET", "/bodies/" .. size
  end
end
