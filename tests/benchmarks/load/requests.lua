-- What wrk sends: GETs over many routes, with ten headers as a browser's client sends them, and with a
-- path and a header that no other request of the run has.  Arguments: keep-alive or close, then prefixes.
dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "result.lua")
local heads, tails, tag, count = {}, {}, "", 0

function init(args)
  local closing = args[1] == "close" and "close" or "keep-alive"
  for place = 2, #args do
    heads[#heads + 1] = "GET " .. args[place] .. "items/"
  end
  tails[1] = "?page=3&sort=price HTTP/1.1\r\n"
    .. "Host: shop.example.com\r\n"
    .. "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    .. "Accept: application/json, text/plain;q=0.9, */*;q=0.5\r\n"
    .. "Accept-Encoding: gzip, deflate, br\r\n"
    .. "Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n"
    .. "Referer: https://shop.example.com/catalogue?page=2\r\n"
    .. "Cookie: session=5f2d8c0b9a7e4c1d8f6b3a2e1d0c9b8a; theme=dark; consent=1\r\n"
    .. "Cache-Control: no-cache\r\n"
    .. "Connection: " .. closing .. "\r\n"
    .. "X-Correlation-Id: "
  math.randomseed(os.time() + tonumber(tostring({}):match("0x(%x+)"), 16) % 1000003)
  tag = string.format("%08x-", math.random(0, 0x7ffffffe))
end

function request()
  count = count + 1
  return heads[count % #heads + 1] .. count .. tails[1] .. tag .. count .. "\r\n\r\n"
end
