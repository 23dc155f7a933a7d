-- How scripts publish on a cluster, where a bare PUBLISH goes to every node: to the queue's own shard, where the server has that.

local function publish(channel, message)
  local answer = redis.pcall('SPUBLISH', channel, message)
  if type(answer) == 'table' and answer.err then
    redis.pcall('PUBLISH', channel, message)
  end
end

