# probes: what every register of the ISA PC reads back, as a transcript.

PROBES := probes
PROBES_OUT := $(OUT)/probes
PROBES_PARTS := boot main pic pit uart rtc i8042 ide
PROBES_OBJECTS := $(PROBES_PARTS:%=$(PROBES_OUT)/%.o)

$(PROBES_OUT)/%.o: $(PROBES)/%.c Makefile $(PROBES)/probes.mk
	@mkdir -p $(@D)
	@echo '  CC  $<'
	$(Q)$(CC) $(GUEST_FLAGS) -MMD -c -o $@ $<

$(PROBES_OUT)/%.o: $(PROBES)/%.S Makefile $(PROBES)/probes.mk
	@mkdir -p $(@D)
	@echo '  CC  $<'
	$(Q)$(CC) $(GUEST_FLAGS) -MMD -c -o $@ $<

$(OUT)/probes.elf: $(PROBES_OBJECTS) $(PROBES)/probes.ld
	@echo '  LD  $@'
	$(Q)$(LD) $(GUEST_LDFLAGS) -T $(PROBES)/probes.ld -o $@ $(PROBES_OBJECTS)

-include $(PROBES_OBJECTS:.o=.d)
