-- The collector's hand inside the game. It reads WORLD/command (JSON), acts, and writes WORLD/answer.
-- Two squares in the corners of the picture show the number of the last command, one server step
-- after it was done: when both show it, the whole picture shows what the command did.

local folder = minetest.get_worldpath()
local player, corners
local last, due

minetest.get_server_status = function() return nil end
core.send_join_message = function() end
core.send_leave_message = function() end

-- Water and lava move by the clock of the client; still ones look the same on the way back.
for name, picture in pairs({
  ["default:water_source"] = "default_water.png", ["default:water_flowing"] = "default_water.png",
  ["default:river_water_source"] = "default_river_water.png",
  ["default:river_water_flowing"] = "default_river_water.png",
  ["default:lava_source"] = "default_lava.png", ["default:lava_flowing"] = "default_lava.png",
}) do
  if minetest.registered_nodes[name] then
    minetest.override_item(name, {tiles = {picture}, special_tiles = {picture, picture}})
  end
end

-- The game turns trees and drops leaves by a generator that is seeded by the clock. Trees that all face
-- one way, with every leaf that is likely, make a world that comes out the same each time.
minetest.register_on_mods_loaded(function()
  local found = {}
  for key, decoration in pairs(minetest.registered_decorations) do
    found[#found + 1] = {tostring(key), decoration}
  end
  table.sort(found, function(a, b) return a[1] < b[1] end)
  minetest.clear_registered_decorations()
  for _, pair in ipairs(found) do
    local decoration = pair[2]
    if decoration.deco_type == "schematic" then
      local plan = minetest.read_schematic(decoration.schematic, {})
      for _, node in ipairs(plan.data) do node.prob = node.prob >= 127 and 254 or 0 end
      for _, slice in ipairs(plan.yslice_prob or {}) do
        slice.prob = slice.prob >= 127 and 254 or 0
      end
      decoration.schematic, decoration.rotation = plan, "0"
    end
    minetest.register_decoration(decoration)
  end
end)

local function write(name, text)
  local file = io.open(folder .. "/" .. name .. ".tmp", "w")
  file:write(text)
  file:close()
  os.rename(folder .. "/" .. name .. ".tmp", folder .. "/" .. name)
end

local function answer(command, fields)
  fields.n = command.n
  write("answer", minetest.write_json(fields))
  due = command.n
end

local function show(n)
  local bit = function(i) return math.floor(n / 2 ^ i) % 2 * 255 end
  local colour = string.format("#%02x%02x%02x", bit(0), bit(1), bit(2))
  local texture = "blank.png^[noalpha^[colorize:" .. colour .. ":255"
  for _, corner in ipairs(corners) do player:hud_change(corner, "text", texture) end
end

local function stand(pose)
  player:set_pos({x = pose[1], y = pose[2], z = pose[3]})
  player:set_look_horizontal(pose[4])
  player:set_look_vertical(pose[5])
end

-- What a node is to a walker: air or plants, ground to stand on, something above the ground, a barrier.
local kinds = {}
local function kind(id)
  if kinds[id] then return kinds[id] end
  local name = minetest.get_name_from_content_id(id)
  local node = minetest.registered_nodes[name]
  local group = function(what) return minetest.get_item_group(name, what) > 0 end
  local found = "ground"
  if not node or name == "ignore" or node.liquidtype ~= "none" then found = "barrier"
  elseif group("tree") or group("leaves") or name:find("cactus") then found = "above"
  elseif not node.walkable then found = "free" end
  kinds[id] = found
  return found
end

-- Height of the ground in every column of a square, -999 where nobody can stand; the block's name as
-- a place in `names`, from 0.
local function ground(c)
  local low = {x = c.x - c.r, y = c.bottom, z = c.z - c.r}
  local high = {x = c.x + c.r, y = c.top, z = c.z + c.r}
  local map = minetest.get_voxel_manip(low, high)
  local from, to = map:get_emerged_area()
  local area, data = VoxelArea:new({MinEdge = from, MaxEdge = to}), map:get_data()
  local heights, tops, names, known = {}, {}, {}, {}
  for z = low.z, high.z do
    for x = low.x, high.x do
      local height, room = -999, 0
      for y = high.y, low.y, -1 do
        local what = kind(data[area:index(x, y, z)])
        if what == "barrier" then break end
        if what == "ground" then
          if room >= c.room then height = y end
          break
        end
        room = what == "free" and room + 1 or 0
      end
      heights[#heights + 1] = height
      local id = height > -999 and data[area:index(x, height, z)] or minetest.CONTENT_AIR
      if not known[id] then
        names[#names + 1] = minetest.get_name_from_content_id(id)
        known[id] = #names - 1
      end
      tops[#tops + 1] = known[id]
    end
  end
  return {heights = heights, tops = tops, names = names}
end

local commands = {
  look = function(c) answer(c, {}) end,
  stand = function(c) stand(c.pose); answer(c, {}) end,
  level = function(c)
    local levels = {}
    for i, place in ipairs(c.places) do
      levels[i] = minetest.get_spawn_level(place[1], place[2]) or -999
    end
    answer(c, {levels = levels})
  end,
  emerge = function(c)
    local low = {x = c.x - c.r, y = c.bottom, z = c.z - c.r}
    local high = {x = c.x + c.r, y = c.top, z = c.z + c.r}
    minetest.emerge_area(low, high, function(_, _, left)
      if left == 0 then answer(c, {}) end
    end)
  end,
  ground = function(c) answer(c, ground(c)) end,
  set = function(c)
    local place = {x = c.x, y = c.y, z = c.z}
    minetest.load_area(place)
    local before = minetest.get_node(place).name
    minetest.set_node(place, {name = c.node})
    answer(c, {before = before})
  end,
}

local tour
commands.tour = function(c) tour = {command = c, at = 0} end

minetest.register_on_joinplayer(function(joined)
  player = joined
  player:hud_set_flags({hotbar = false, healthbar = false, crosshair = false, wielditem = false,
    breathbar = false, minimap = false, minimap_radar = false})
  player:set_physics_override({gravity = 0, speed = 0, jump = 0})
  player:set_clouds({density = 0})
  player:set_properties({visual_size = {x = 0, y = 0}})
  corners = {}
  for i, side in ipairs({0, 1}) do
    corners[i] = player:hud_add({hud_elem_type = "image", position = {x = side, y = side},
      offset = {x = 4 - 8 * side, y = 4 - 8 * side}, scale = {x = 8, y = 8},
      alignment = {x = 0, y = 0}, text = "blank.png", z_index = 1000})
  end
  minetest.after(0.2, function() write("ready", "1") end)
end)

minetest.register_globalstep(function()
  if not player then return end
  if due then show(due); due = nil; return end
  if tour then
    tour.at = tour.at + 1
    if tour.at <= #tour.command.poses then stand(tour.command.poses[tour.at])
    else local done = tour.command; tour = nil; answer(done, {}) end
    return
  end
  local file = io.open(folder .. "/command", "r")
  if not file then return end
  local text = file:read("*a")
  file:close()
  local command = minetest.parse_json(text)
  if command and command.n ~= last then
    last = command.n
    commands[command.op](command)
  end
end)
