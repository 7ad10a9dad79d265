-- What wrk sends: files of 10 kB, each with a name and bytes of its own. Arguments: form or put, the path, and what names of this round begin with.
local threads = 0

function setup(thread)
    thread:set("number", threads)
    threads = threads + 1
end

function init(arguments)
    kind, path, round = arguments[1], arguments[2], arguments[3]
    count = 0
    -- The signature of a PNG, and what no disk and no network makes smaller.
    math.randomseed(number + 1)
    local bytes = { "\137PNG\r\n\26\n\0\0\0\rIHDR" }
    for _ = 1, 10000 do
        bytes[#bytes + 1] = string.char(math.random(0, 255))
    end
    picture = table.concat(bytes)
end

function request()
    count = count + 1
    local name = string.format("%s-%d-%d.png", round, number, count)
    local bytes = picture .. name
    if kind == "put" then
        return wrk.format("PUT", path .. name, {}, bytes)
    end
    local body = "--X\r\nContent-Disposition: form-data; name=\"path\"; filename=\"" .. name
        .. "\"\r\nContent-Type: image/png\r\n\r\n" .. bytes .. "\r\n--X--\r\n"
    return wrk.format("POST", path, { ["Content-Type"] = "multipart/form-data; boundary=X" }, body)
end

function done(summary, latency)
    io.write(string.format("files_a_second %.0f\n", summary.requests / (summary.duration / 1e6)))
    io.write(string.format("refused %d\n", summary.errors.status + summary.errors.connect + summary.errors.read
        + summary.errors.write + summary.errors.timeout))
    io.write(string.format("p99_ms %.1f\n", latency:percentile(99) / 1000))
end
