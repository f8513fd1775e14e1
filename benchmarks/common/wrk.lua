-- Arguments: the file of bodies, one per line ("-" sends GETs), and the longest pause in ms.
-- Answers are not read here, because a response() hook would cost more than the service.
-- wrk counts failed statuses itself, and benchmarks/common/tasks.py checks answers.
local requests, turn = {}, 0

function init(args)
  if args[1] ~= "-" then
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/json"
    for line in io.lines(args[1]) do
      requests[#requests + 1] = wrk.format(nil, nil, nil, line)
    end
  else
    requests[1] = wrk.format()
  end
  local pause = tonumber(args[2] or "0")
  if pause > 0 then
    math.randomseed(7)
    delay = function() return math.random(0, pause) end
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local e = summary.errors
  print(string.format(
    'BENCH {"requests": %d, "seconds": %.6f, "p50": %.4f, "p99": %.4f, "max": %.4f, "failed": %d}',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
