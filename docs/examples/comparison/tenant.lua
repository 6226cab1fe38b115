core.register_action("tenant", {"http-req"}, function(txn)
  local key = txn.sf:req_hdr("x-api-key") or ""
  if not key:match("^%w+$") then
    txn:set_var("txn.refuse", "401")
    return
  end
  local answer = core.httpclient():get{url = "http://127.0.0.1:8081/keys/" .. key, timeout = 2000}
  if answer.status ~= 200 then
    txn:set_var("txn.refuse", "403")
    return
  end
  txn:set_var("txn.tenant", (answer.body:gsub("%s+$", "")))
end)
