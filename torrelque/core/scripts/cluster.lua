-- How scripts publish on a cluster. PUBLISH would go to every node, so use SPUBLISH if the server has it.

local function publish(channel, message)
  local answer = redis.pcall('SPUBLISH', channel, message)
  if type(answer) == 'table' and answer.err then
    redis.pcall('PUBLISH', channel, message)
  end
end

