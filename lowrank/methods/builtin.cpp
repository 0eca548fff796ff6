// SPDX-License-Identifier: Apache-2.0
#include "lowrank/methods/builtin.hpp"

#include "lowrank/methods/apollo.hpp"
#include "lowrank/methods/full.hpp"
#include "lowrank/methods/galore.hpp"
#include "lowrank/methods/loqt.hpp"
#include "lowrank/methods/lora.hpp"
#include "lowrank/methods/low_rank.hpp"
#include "lowrank/methods/relora.hpp"
#include "lowrank/methods/scale.hpp"

namespace kumiko::lowrank {

void register_builtin_methods(MethodRegistry& registry) {
  registry.add("apollo", [](const MethodContext& context) { return std::make_unique<ApolloMethod>(context, ApolloKind::apollo); });
  registry.add("apollo_mini", [](const MethodContext& context) { return std::make_unique<ApolloMethod>(context, ApolloKind::apollo_mini); });
  registry.add("q_apollo", [](const MethodContext& context) { return std::make_unique<ApolloMethod>(context, ApolloKind::q_apollo); });
  registry.add("q_apollo_mini", [](const MethodContext& context) { return std::make_unique<ApolloMethod>(context, ApolloKind::q_apollo_mini); });
  registry.add("full", [](const MethodContext& context) { return std::make_unique<FullMethod>(context); });
  registry.add("galore", [](const MethodContext& context) { return std::make_unique<GaloreMethod>(context, GaloreKind::plain); });
  registry.add("q_galore", [](const MethodContext& context) { return std::make_unique<GaloreMethod>(context, GaloreKind::quantized); });
  registry.add("loqt", [](const MethodContext& context) { return std::make_unique<LoqtMethod>(context, true); });
  registry.add("loqt_nq", [](const MethodContext& context) { return std::make_unique<LoqtMethod>(context, false); });
  registry.add("lora", [](const MethodContext& context) { return std::make_unique<LoraMethod>(context, "lora", "none"); });
  registry.add("low_rank", [](const MethodContext& context) { return std::make_unique<LowRankMethod>(context); });
  registry.add("qlora", [](const MethodContext& context) { return std::make_unique<LoraMethod>(context, "qlora", "nf4"); });
  registry.add("relora", [](const MethodContext& context) { return std::make_unique<ReloraMethod>(context); });
  registry.add("scale", [](const MethodContext& context) { return std::make_unique<ScaleMethod>(context); });
}

}  // namespace kumiko::lowrank
